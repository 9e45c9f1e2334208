"""Every option: its name, type, unit, bounds, default and what it is for."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, get_type_hints

from msgspec import Meta, Struct

from batchcancel.settings.words import (
    Auth,
    Environment,
    LogFormat,
    LogLevel,
    ManifestFormat,
    Mle,
    Progress,
    RetryErrors,
)


class Task(StrEnum):
    """What a flag is for: the sections of ``run --help``, in their order."""

    CALL = "What is called"
    MANIFEST = "How the manifest is read"
    ANSWERS = "Where results go, and what is asked again"
    GATES = "Before anything is canceled"
    STOPS = "When to stop"
    PACE = "How fast"
    PATIENCE = "When the service is slow or fails"
    OUTPUT = "What is shown and written"
    LOG = "The log"
    WATCH = "Who else watches"


def _flag(
    task: Task,
    description: str,
    metavar: str | None = None,
    **bounds: Any,  # noqa: ANN401 - msgspec's
) -> Meta:
    return Meta(description=description, extra={"flag": True, "task": task, "metavar": metavar}, **bounds)


def _key(description: str) -> Meta:
    return Meta(description=description, extra={"flag": False})


def _engine(description: str, metavar: str | None = None) -> Meta:
    return Meta(description=description, extra={"flag": False, "metavar": metavar})


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options as they were given; ``Settings`` is what follows from them."""

    env: Annotated[
        Environment | None,
        _flag(Task.CALL, "what is called: the built-in simulator, the test host or production; must be said"),
    ] = None
    base_url: Annotated[
        str | None, _flag(Task.CALL, "another host; plain http is accepted for loopback only", "URL")
    ] = None
    ledger: Annotated[
        str | None,
        _flag(
            Task.ANSWERS,
            "where results go; appended to (default: the manifest's stem + .<env>.ledger.jsonl)",
            "PATH",
        ),
    ] = None
    column: Annotated[
        str | None,
        _flag(Task.MANIFEST, "the id's column or JSON field (default: found by its usual names)", "NAME"),
    ] = None
    format: Annotated[
        ManifestFormat | None, _flag(Task.MANIFEST, "how the manifest is written (default: by its file name)")
    ] = None
    merchant_column: Annotated[
        str | None,
        _flag(
            Task.MANIFEST,
            "the column that says whose invoice a row is; a portfolio's key signs for each",
            "NAME",
        ),
    ] = None
    encoding: Annotated[str, _flag(Task.MANIFEST, "the manifest's encoding", "NAME")] = "utf-8"
    keep: Annotated[
        tuple[str, ...], _flag(Task.MANIFEST, "carry this column into the ledger; may be repeated", "COLUMN")
    ] = ()
    concurrency: Annotated[
        int, _flag(Task.PACE, "most requests in flight, retries and look-ups included", "N", ge=1, le=500)
    ] = 16
    rate: Annotated[
        Annotated[float, Meta(gt=0, le=100_000)] | None,
        _flag(
            Task.PACE, "most requests a second, all kinds together (default: 20; no limit on loopback)", "N"
        ),
    ] = None
    rate_per_merchant: Annotated[
        Annotated[float, Meta(gt=0, le=100_000)] | None,
        _flag(
            Task.PACE,
            "most requests a second for each merchant; --rate then limits all together, if given",
            "N",
        ),
    ] = None
    timeout: Annotated[
        float, _flag(Task.PATIENCE, "seconds for one request; 10 of them to connect", "S", gt=0, le=3600)
    ] = 30.0
    max_attempts: Annotated[
        int, _flag(Task.PATIENCE, "POSTs for one invoice; as many look-ups", "N", ge=1, le=100)
    ] = 5
    max_outage: Annotated[
        float, _flag(Task.PATIENCE, "seconds that an outage is waited out", "S", ge=0, le=604_800)
    ] = 600.0
    limit: Annotated[
        Annotated[int, Meta(ge=1, le=10**12)] | None,
        _flag(Task.STOPS, "ask about that many invoices at most, then stop (exit 7)", "N"),
    ] = None
    max_duration: Annotated[
        Annotated[float, Meta(gt=0, le=31_536_000)] | None,
        _flag(Task.STOPS, "stop after that many seconds (exit 7)", "S"),
    ] = None
    max_errors: Annotated[
        Annotated[int, Meta(ge=0, le=10**12)] | None,
        _flag(Task.STOPS, "stop when more rows than that ended in an error (exit 4)", "N"),
    ] = None
    max_error_rate: Annotated[
        float,
        _flag(
            Task.STOPS, "stop when more of the last 200 rows ended in an error (exit 4)", "P%", ge=0, le=100
        ),
    ] = 50.0
    max_mismatch: Annotated[
        Annotated[float, Meta(ge=0, le=100)] | None,
        _flag(
            Task.STOPS,
            "stop when more of them are paid, missing or not what the manifest says (exit 4)",
            "P%",
        ),
    ] = None
    canary: Annotated[
        int,
        _flag(
            Task.GATES,
            "cancel that many first, look each up, and go on only if each is what its reply said",
            "N",
            ge=0,
            le=10_000,
        ),
    ] = 0
    expect_count: Annotated[
        str | None,
        _flag(Task.GATES, "refuse unless the manifest has that many distinct valid ids", "N|MIN-MAX"),
    ] = None
    match: Annotated[
        tuple[str, ...],
        _flag(
            Task.GATES,
            "look each invoice up first, and cancel it only if its total, currency or dueDate equals the "
            "column; may be repeated",
            "COLUMN=FIELD",
        ),
    ] = ()
    exclude: Annotated[str | None, _flag(Task.GATES, "a file of ids that are never touched", "FILE")] = None
    retry_errors: Annotated[
        RetryErrors, _flag(Task.ANSWERS, "which errors of earlier runs are asked about again")
    ] = RetryErrors.OPEN
    dry_run: Annotated[
        bool, _flag(Task.GATES, "look only, as plan does: nothing is canceled, no ledger is touched")
    ] = False
    plan: Annotated[
        str | None,
        _flag(Task.GATES, "take paid and canceled invoices from this plan, and ask about all others", "FILE"),
    ] = None
    plan_max_age: Annotated[
        str, _flag(Task.GATES, "how old a plan may be; in seconds, or as 90m, 24h or 7d", "AGE")
    ] = "24h"
    yes: Annotated[
        bool, _flag(Task.GATES, "cancel in production without asking; needed where there is no terminal")
    ] = False
    ref: Annotated[
        Annotated[str, Meta(max_length=200)] | None,
        _flag(Task.ANSWERS, "a ticket or reason, kept in the run record", "TEXT"),
    ] = None
    report: Annotated[
        str | None, _flag(Task.OUTPUT, "write an HTML page about the ledger at the end of the run", "PATH")
    ] = None
    json: Annotated[bool, _flag(Task.OUTPUT, "write the summary as JSON")] = False
    progress: Annotated[Progress, _flag(Task.OUTPUT, "how progress is shown, on standard error")] = (
        Progress.AUTO
    )
    log_format: Annotated[LogFormat, _flag(Task.LOG, "how log lines are written")] = LogFormat.CONSOLE
    log_level: Annotated[LogLevel, _flag(Task.LOG, "the least important log line that is written")] = (
        LogLevel.WARNING
    )
    log_file: Annotated[
        str | None, _flag(Task.LOG, "write the log there instead of standard error", "PATH")
    ] = None
    metrics_file: Annotated[
        str | None,
        _flag(
            Task.WATCH, "write metrics there for node_exporter (*.prom), every 10 s and at the end", "PATH"
        ),
    ] = None
    metrics_port: Annotated[
        Annotated[int, Meta(ge=0, le=65_535)] | None,
        _flag(Task.WATCH, "serve metrics for Prometheus while the run lasts; 0 takes a free port", "N"),
    ] = None
    metrics_host: Annotated[str, _flag(Task.WATCH, "the address that port is on", "HOST")] = "127.0.0.1"
    ping_url: Annotated[
        str | None,
        _flag(
            Task.WATCH,
            "a health check: called with /start, at the end as it is, or with /fail; better said in "
            "BATCHCANCEL_PING_URL, since others can read command lines",
            "URL",
        ),
    ] = None
    ping_url_file: Annotated[str | None, _key("a file that holds the health check's address")] = None
    notify_url: Annotated[
        str | None,
        _flag(
            Task.WATCH,
            "told of start and end by a POST of JSON; better said in BATCHCANCEL_NOTIFY_URL, likewise",
            "URL",
        ),
    ] = None
    notify_url_file: Annotated[str | None, _key("a file that holds that receiver's address")] = None
    auth: Annotated[Auth, _key("how requests are signed")] = Auth.JWT
    merchant_id: Annotated[str | None, _key("the merchant whose invoices are canceled")] = None
    key_id: Annotated[str | None, _key("the id of the shared secret key")] = None
    shared_secret: Annotated[str | None, _key("the shared secret, base64")] = None
    shared_secret_file: Annotated[str | None, _key("a file that holds the shared secret")] = None
    portfolio_id: Annotated[str | None, _key("the portfolio that signs with a meta key")] = None
    p12_file: Annotated[str | None, _key("a PKCS#12 file with the certificate that signs")] = None
    p12_password: Annotated[str | None, _key("the password of that file")] = None
    p12_password_file: Annotated[str | None, _key("a file that holds the password")] = None
    key_alias: Annotated[
        str | None, _key("the certificate's common name (default: the portfolio, else the merchant)")
    ] = None
    mle: Annotated[Mle, _key("message-level encryption")] = Mle.OFF
    mle_cert_file: Annotated[
        str | None, _key("the service's certificate for requests, PEM (default: in the PKCS#12 file)")
    ] = None
    mle_response_key_file: Annotated[
        str | None, _key("the private key for encrypted replies, PEM or PKCS#12")
    ] = None
    mle_response_key_password: Annotated[str | None, _key("the password of that file")] = None
    mle_response_key_password_file: Annotated[str | None, _key("a file that holds the password")] = None
    mle_response_key_id: Annotated[
        str | None, _key("that key's id (default: in the PKCS#12 file's certificate)")
    ] = None
    ca_file: Annotated[str | None, _key("private root certificates, PEM")] = None
    proxy: Annotated[str | None, _key("proxy URL")] = None
    temporal_address: Annotated[str, _engine("where Temporal's frontend listens", "HOST:PORT")] = (
        "localhost:7233"
    )
    temporal_namespace: Annotated[str, _engine("the namespace there", "NAME")] = "default"
    temporal_task_queue: Annotated[
        str | None, _engine("the workers' queue (default: by environment, host and merchant)", "NAME")
    ] = None
    temporal_tls: Annotated[bool, _engine("use TLS, with public roots")] = False
    temporal_tls_ca: Annotated[str | None, _engine("the server's root, PEM; switches TLS on", "FILE")] = None
    temporal_tls_cert: Annotated[str | None, _engine("our certificate, PEM; switches TLS on", "FILE")] = None
    temporal_tls_key: Annotated[str | None, _engine("its private key, PEM", "FILE")] = None
    temporal_api_key: Annotated[str | None, _engine("the API key; switches TLS on")] = None
    temporal_api_key_file: Annotated[str | None, _engine("a file that holds the API key")] = None

    def __repr__(self) -> str:
        """Show which options there are, never their values: some are secret."""
        return f"Options({', '.join(name for name in self.__struct_fields__ if getattr(self, name))})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show rich no values either; by itself it would print them all."""
        return [(name, ...) for name in self.__struct_fields__ if getattr(self, name)]


HINTS: Final = get_type_hints(Options, include_extras=True)
"""The annotated type of each option, by name."""
FLAG_ONLY: Final = frozenset({"yes"})
"""Options that neither the environment nor a file may set."""
LISTS: Final = frozenset({"keep", "match"})
"""Options that take several texts; in the environment commas stand between them."""
PERCENTAGES: Final = frozenset({"max_error_rate", "max_mismatch"})
"""Options in percent; the sign may be written or left out."""
SECRETS: Final = frozenset(
    {
        "shared_secret",
        "p12_password",
        "mle_response_key_password",
        "ping_url",
        "notify_url",
        "temporal_api_key",
    }
)
"""Options that are secret; each has a twin ``_file`` that names a file with the secret."""
FILES: Final = frozenset(
    {"p12_file", "mle_cert_file", "mle_response_key_file", "ca_file", "exclude", "plan"}
    | {"temporal_tls_ca", "temporal_tls_cert", "temporal_tls_key"}
    | {f"{name}_file" for name in SECRETS}
)
"""Options that name a file to read; in the configuration file, relative to it."""
ENGINE_PREFIX: Final = "temporal_"
"""How options begin that say where the engine of many hosts is; their flags leave it out."""
ENGINE: Final = tuple(name for name in Options.__struct_fields__ if name.startswith(ENGINE_PREFIX))
"""Those options; commands that need them have the flags of all but the secret."""
NOT_FOR_THE_RECORD: Final = frozenset(
    {"proxy", "p12_file", "mle_response_key_file"}
    | SECRETS
    | {f"{name}_file" for name in SECRETS}
    | set(ENGINE)
)
"""Options that no record shows."""


def flag_of(name: str) -> str:
    """Return how an option is called on the command line."""
    return "--" + name.removeprefix(ENGINE_PREFIX).replace("_", "-")
