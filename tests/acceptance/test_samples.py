"""The samples, run by the installed command: every row ends as its id promises."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest

from batchcancel.model import Outcome, Reason
from batchcancel.settings import Environment, Options, Settings, SharedSecret, load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.conftest import ReadLedger, RunCommand, Simulator

Answer = tuple[str, str]

_CANCELED: Final[Answer] = ("canceled", "canceled")
# Longer prefixes before those that they begin with.
_BY_PREFIX: Final[dict[str, Answer]] = {
    "PENDING-PAID-": ("already_paid", "paid"),
    "PAID-": ("already_paid", "paid"),
    "PARTIAL-": ("partially_paid", "partial"),
    "CANCELED-": ("canceled", "already_canceled"),
    "MISSING-": ("error", "not_found"),
    "FORBIDDEN-": ("error", "refused"),
    "UNKNOWNSTATUS-": ("error", "unknown_status"),
    "DRAFT-": _CANCELED,
    "CREATED-": _CANCELED,
    "RESET-AFTER-": _CANCELED,
    "TRUNCATED-": _CANCELED,
    "THROTTLE-": _CANCELED,
    "ERROR502-ONCE-": _CANCELED,
    "LAPSED-": _CANCELED,
}
_DAMAGED: Final = frozenset({"1.23E+15", "12345.0", "", "INV 77", "INV 78", "../2675", "=2675", "null"})
_OPEN: Final = frozenset({"FORBIDDEN-8201", "UNKNOWNSTATUS-8301"})
_CONFIG_FILES: Final = (
    "secrets/test-shared-secret",
    "secrets/production-shared-secret",
    "private-roots.pem",
    "CyberSource_SJC_US.pem",
    "secrets/response-key.pem",
    "secrets/response-key-password",
)


def _prefix_of(invoice_id: str) -> str | None:
    return next((prefix for prefix in _BY_PREFIX if invoice_id.startswith(prefix)), None)


def _promised(invoice_id: str) -> Answer:
    if invoice_id in _DAMAGED:
        return "error", "invalid_id"
    prefix = _prefix_of(invoice_id)
    return _BY_PREFIX[prefix] if prefix else _CANCELED


def _csv_ids(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as lines:
        return [row["invoice_id"] for row in csv.DictReader(lines)]


def _jsonl_ids(path: Path) -> list[str]:
    values = [json.loads(line)["invoiceNumber"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [value if isinstance(value, str) else json.dumps(value) for value in values]


def _check_every_row(ledger: list[dict[str, Any]], ids: list[str]) -> None:
    """Compare a ledger of one run with what the ids promise, row by row."""
    first_rows: dict[str, int] = {}
    for row, invoice_id in enumerate(ids, start=1):
        first_rows.setdefault(invoice_id, row)
    results = {line["row"]: line for line in ledger if line["type"] == "result"}
    skips = {line["row"]: line["of_row"] for line in ledger if line["type"] == "skip"}

    written = {row: (line["invoice_id"], line["outcome"], line["reason"]) for row, line in results.items()}
    assert written == {row: (invoice_id, *_promised(invoice_id)) for invoice_id, row in first_rows.items()}
    assert skips == {
        row: first_rows[invoice_id]
        for row, invoice_id in enumerate(ids, start=1)
        if first_rows[invoice_id] != row
    }
    assert len([line for line in ledger if line["type"] == "result"]) + len(skips) == len(ids)

    end = ledger[-1]
    outcomes = Counter(line["outcome"] for line in results.values())
    assert (end["type"], end["state"]) == ("end", "complete")
    assert end["counts"] == {
        "rows": len(ids),
        **{str(outcome): outcomes[outcome] for outcome in Outcome},
        "settled_earlier": 0,
        "duplicates": len(skips),
        "excluded": 0,
        "open": 0,
    }


def test_csv_sample_shows_what_it_is_meant_to(samples: Path) -> None:
    """About 300 rows hold every prefix of the table, every kind of damage, and three duplicates."""
    ids = _csv_ids(samples / "invoices.csv")
    assert 290 <= len(ids) <= 320
    assert len(ids) - len(set(ids)) == 3
    assert {_prefix_of(invoice_id) for invoice_id in ids} == {None, *_BY_PREFIX}
    assert _DAMAGED - set(ids) == {"INV 78", "null"}  # these two stand in the JSON lines
    assert any(invoice_id.startswith("0") for invoice_id in ids)
    reasons = {_promised(invoice_id)[1] for invoice_id in ids}
    assert {Reason(reason).outcome for reason in reasons} == set(Outcome)
    assert {invoice_id for invoice_id in ids if not Reason(_promised(invoice_id)[1]).is_final} == _OPEN


@pytest.mark.parametrize("way", ["file", "gzip", "stdin"])
def test_csv_sample_ends_as_its_ids_promise(
    way: str, samples: Path, run_command: RunCommand, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """However the CSV comes in, every row gets the answer that its id promises, and none is lost."""
    source = samples / "invoices.csv"
    packed = tmp_path / "invoices.csv.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    if way == "stdin":
        flags = ("--format", "csv", "--ledger", "invoices.sandbox.ledger.jsonl")
        text = source.read_text(encoding="utf-8")
        done = run_command("run", "-", *flags, "--env", "sandbox", stdin=text)
    else:
        done = run_command("run", source if way == "file" else packed, "--env", "sandbox")
    assert done.returncode == 3, done.stderr
    _check_every_row(read_ledger(tmp_path / "invoices.sandbox.ledger.jsonl"), _csv_ids(source))


def test_jsonl_sample_ends_as_its_ids_promise(
    samples: Path, run_command: RunCommand, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """Ids of JSON lines may be text or integers; other types are refused as damaged."""
    done = run_command("run", samples / "invoices.jsonl", "--env", "sandbox")
    assert done.returncode == 3, done.stderr
    ids = _jsonl_ids(samples / "invoices.jsonl")
    _check_every_row(read_ledger(tmp_path / "invoices.sandbox.ledger.jsonl"), ids)
    assert "31002" in ids  # once as text, once as an integer: one invoice


def test_second_run_asks_only_what_is_open(
    samples: Path, run_command: RunCommand, read_ledger: ReadLedger, simulator: Simulator, tmp_path: Path
) -> None:
    """A rerun sends not one request for an invoice that has its answer, and asks open errors again."""
    manifest = str(samples / "invoices.csv")
    arguments = ("run", manifest, *simulator.flags, "--ledger", "l.ledger.jsonl", "--json")
    first = run_command(*arguments, env=simulator.env)
    assert first.returncode == 3, first.stderr
    before = len(simulator.requests())
    valid = set(_csv_ids(samples / "invoices.csv")) - _DAMAGED
    assert {line["invoice_id"] for line in simulator.requests()} - {None} == valid

    second = run_command(*arguments, env=simulator.env)

    assert second.returncode == 3, second.stderr
    asked = {line["invoice_id"] for line in simulator.requests()[before:]} - {None}
    assert asked == _OPEN
    summary = json.loads(second.stdout)
    assert summary["reasons"] == {"refused": 1, "unknown_status": 1}
    assert summary["settled_earlier"] == summary["rows"] - summary["duplicates"] - len(_OPEN)
    ledger = read_ledger(tmp_path / "l.ledger.jsonl")
    results = Counter(line["invoice_id"] for line in ledger if line["type"] == "result")
    assert {invoice_id for invoice_id, count in results.items() if count > 1} == _OPEN


def _configured(folder: Path, text: str, profile: str | None) -> Settings:
    """Load a configuration, with files in place for what it names."""
    config = folder / "batchcancel.toml"
    config.write_text(text, encoding="utf-8")
    for name in _CONFIG_FILES:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("bm90IGEgc2VjcmV0", encoding="ascii")
        path.chmod(0o600)
    environ = {"BATCHCANCEL_CONFIG": str(config)}
    if profile is not None:
        return load_settings(["export.csv"], environ=environ | {"BATCHCANCEL_PROFILE": profile})
    return load_settings(["export.csv"], environ=environ, env="test")


@pytest.mark.parametrize(
    ("profile", "environment", "rate", "ledger"),
    [
        pytest.param(None, Environment.TEST, 20.0, "export.test.ledger.jsonl", id="top-level"),
        pytest.param("nightly", Environment.TEST, 20.0, "nightly.ledger.jsonl", id="nightly"),
        pytest.param(
            "production", Environment.PRODUCTION, 10.0, "export.production.ledger.jsonl", id="production"
        ),
    ],
)
def test_sample_configuration_loads(
    profile: str | None, environment: Environment, rate: float, ledger: str, samples: Path, tmp_path: Path
) -> None:
    """The sample's top level and each of its profiles are complete, with secrets taken from files."""
    text = (samples / "batchcancel.toml").read_text(encoding="utf-8")
    settings = _configured(tmp_path, text, profile)
    assert settings.environment is environment
    assert settings.rate == rate
    assert str(settings.ledger) == ledger
    assert settings.warnings == ()
    assert "shared_secret" not in settings.sources
    assert settings.credentials is not None
    assert isinstance(settings.credentials.key, SharedSecret)
    assert settings.credentials.key.secret.reveal() == b"not a secret"


def test_sample_configuration_shows_every_option(samples: Path, tmp_path: Path) -> None:
    """With every commented key switched on it still loads, and only what must not stand there is missing."""
    text = (samples / "batchcancel.toml").read_text(encoding="utf-8")
    switched_on = re.sub(r"(?m)^# (?=[a-z0-9_]+ = )", "", text)
    sources = _configured(tmp_path, switched_on, "nightly").sources
    assert set(Options.__struct_fields__) - set(sources) == {
        "yes",
        "shared_secret",
        "p12_password",
        "mle_response_key_password",
        "ping_url",
        "notify_url",
        "temporal_api_key",
    }
