"""The simulator on a real socket, and its command as a real process."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import click
import pytest
from click.testing import CliRunner

from batchcancel.cli.sandbox import sandbox as sandbox_command
from batchcancel.sandbox import (
    SANDBOX_KEY_ID,
    SANDBOX_MERCHANT_ID,
    SANDBOX_SECRET,
    Sandbox,
    SandboxOptions,
)
from batchcancel.sandbox.options import RateLimitKind
from batchcancel.sandbox.throwaway import ThrowawayKeys

if TYPE_CHECKING:
    from tests.conftest import KeyHolder

ROOT = "/invoicing/v2/invoices"
COMMAND = [sys.executable, "-c", "from batchcancel.cli.sandbox import sandbox; sandbox()"]


def bearer(
    method: str, target: str, body: bytes, secret: str = SANDBOX_SECRET, key_id: str = SANDBOX_KEY_ID
) -> dict[str, str]:
    """Sign a request to loopback by JWT v2, afresh each time."""
    claims: dict[str, object] = {
        "iat": int(time.time()),
        "exp": int(time.time()) + 120,
        "iss": SANDBOX_MERCHANT_ID,
        "jti": str(uuid.uuid4()),
        "request-host": "127.0.0.1",
        "request-method": method,
        "request-resource-path": target,
        "v-c-jwt-version": "2",
        "v-c-merchant-id": SANDBOX_MERCHANT_ID,
    }
    if body:
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        claims |= {"digest": digest, "digestAlgorithm": "SHA-256"}
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "kid": key_id, "typ": "JWT"}, claims)]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = hmac.digest(base64.b64decode(secret), signed, "sha256")
    token = signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")
    return {"Authorization": f"Bearer {token.decode()}"}


class Client:
    """A bare client of a running simulator."""

    def __init__(self, session: aiohttp.ClientSession, server: Sandbox) -> None:
        self.session = session
        self.server = server

    async def send(self, method: str, path: str, body: bytes = b"", **kwargs: Any) -> tuple[Any, bytes]:
        target = ROOT + path
        async with self.session.request(
            method,
            self.server.base_url + target,
            data=body or None,
            headers=bearer(method, target, body),
            **kwargs,
        ) as response:
            return response, await response.read()

    async def cancel(self, invoice_id: str, **kwargs: Any) -> tuple[Any, bytes]:
        return await self.send("POST", f"/{invoice_id}/cancelation", b"{}", **kwargs)


async def send_encrypted(
    session: aiohttp.ClientSession,
    base_url: str,
    holder: KeyHolder,
    invoice_id: str,
    **claims: Any,
) -> tuple[int, Any]:
    """Cancel an invoice, encrypted both ways; return the HTTP status and what the reply says."""
    target = f"{ROOT}/{invoice_id}/cancelation"
    body = holder.encrypt(b"{}")
    claims = {"v-c-response-mle-kid": holder.response_key_id} | claims
    token = holder.sign(holder.claims("POST", target, body, now_s=int(time.time()), **claims))
    headers = {"Authorization": f"Bearer {token}"}
    async with session.post(base_url + target, data=body, headers=headers) as response:
        return response.status, holder.decrypt(await response.read())


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Client]:
    """Run a simulator and a session for it."""
    async with Sandbox(SandboxOptions(**options)) as server, aiohttp.ClientSession() as session:
        yield Client(session, server)


def log_lines(path: Path) -> list[dict[str, Any]]:
    """Read the simulator's log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_cancelation_over_the_wire_is_answered_and_remembered() -> None:
    """The reply is JSON with a correlation id and a date, and the state is there to be asked."""
    async with serving() as client:
        assert client.server.state("2675") is None
        response, body = await client.cancel("2675")
        assert (response.status, response.content_type) == (200, "application/json")
        assert json.loads(body)["status"] == "CANCELED"
        assert response.headers["v-c-correlation-id"]
        assert abs(parsedate_to_datetime(response.headers["Date"]).timestamp() - time.time()) < 5
        await client.send("GET", "/2675")
        await client.send("GET", "?offset=0&limit=1")
        assert client.server.state("2675") == "CANCELED"
        assert list(client.server.invoices) == ["2675"]
        assert client.server.requests == {"cancel": 1, "get": 1, "list": 1}


async def test_every_kind_of_reply_carries_correlation_id_and_date() -> None:
    """Errors of the gateway and pages that are no JSON carry them as well, each id once."""
    async with serving() as client:
        responses = [(await client.cancel(id_))[0] for id_ in ("PAID-1", "HTML-1", "ERROR500-1", "EMPTY-1")]
        async with client.session.get(client.server.base_url + ROOT) as unsigned:
            responses.append(unsigned)
        async with client.session.get(client.server.base_url + "/nothing") as page:
            responses.append(page)
        assert [response.status for response in responses] == [400, 200, 500, 200, 401, 404]
        assert all("Date" in response.headers for response in responses)
        assert len({response.headers["v-c-correlation-id"] for response in responses}) == 6


async def test_the_date_header_follows_the_clock_that_is_off() -> None:
    """A client can learn the service's clock from a refusal."""
    async with serving(clock_offset_s=-7200) as client:
        response, body = await client.cancel("2675")
        assert response.status == 401
        assert json.loads(body) == {"response": {"rmsg": "Authentication Failed"}}
        offset_s = parsedate_to_datetime(response.headers["Date"]).timestamp() - time.time()
        assert abs(offset_s + 7200) < 5


@pytest.mark.parametrize(("invoice_id", "state"), [("RESET-BEFORE-1", "SENT"), ("RESET-AFTER-1", "CANCELED")])
async def test_a_reset_is_a_real_reset_of_the_connection(invoice_id: str, state: str) -> None:
    """The client gets no reply, and the service has done what the prefix says."""
    async with serving() as client:
        with pytest.raises(aiohttp.ClientOSError, match="reset"):
            await client.cancel(invoice_id)
        assert client.server.state(invoice_id) == state


async def test_a_truncated_reply_breaks_off_in_its_middle() -> None:
    """The headers promise more than comes."""
    async with serving() as client:
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.cancel("TRUNCATED-1")
        assert client.server.state("TRUNCATED-1") == "CANCELED"


async def test_a_slow_reply_is_done_at_once_and_answered_late() -> None:
    """A client that gives up does not undo the cancelation."""
    async with serving(slow_ms=300) as client:
        with pytest.raises(TimeoutError):
            await client.cancel("SLOW-1", timeout=aiohttp.ClientTimeout(total=0.1))
        assert client.server.state("SLOW-1") == "CANCELED"
        started_s = time.monotonic()
        assert (await client.cancel("SLOW-2"))[0].status == 200
        assert time.monotonic() - started_s >= 0.29


async def test_leaving_does_not_wait_for_replies_that_never_come() -> None:
    """A hanging request does not keep the simulator open."""
    async with serving() as client:
        hanging = asyncio.create_task(client.cancel("HANG-1"))
        while client.server.state("HANG-1") is None:
            await asyncio.sleep(0.005)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 2
    with pytest.raises(aiohttp.ClientError):
        await hanging


async def test_a_throttled_request_says_when_to_come_back() -> None:
    """Retry-After is on the 429 of the rate limit as told, and left out if told so."""
    async with serving(rate_limit=1, retry_after_s=7) as client:
        await client.cancel("1")
        response, _ = await client.cancel("2")
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
    async with serving(rate_limit=1, retry_after_s=None) as client:
        await client.cancel("1")
        response, _ = await client.cancel("2")
        assert response.status == 429
        assert "Retry-After" not in response.headers


async def test_the_target_is_checked_as_it_stood_on_the_wire() -> None:
    """Percent-encoding and query are compared byte for byte, not decoded."""
    async with serving() as client:
        target = f"{ROOT}?offset=0&limit=1"
        for path, status in ((f"{ROOT}?limit=1&offset=0", 401), (target, 404)):
            async with client.session.get(
                client.server.base_url + path, headers=bearer("GET", target, b"")
            ) as response:
                assert response.status == status


async def test_the_log_has_a_line_for_every_request_and_no_secret(tmp_path: Path) -> None:
    """Status, cause and commit are told, resets too; credentials and customers are not."""
    log = tmp_path / "requests.jsonl"
    async with serving(log=log) as client:
        await client.cancel("1")
        with pytest.raises(aiohttp.ClientOSError):
            await client.cancel("RESET-AFTER-1")
        await client.send("GET", "/PAID-1")
        async with client.session.get(client.server.base_url + ROOT + "/1") as unsigned:
            assert unsigned.status == 401
        lines = log_lines(log)
    assert list(lines[0]) == [
        "at",
        "method",
        "target",
        "operation",
        "invoice_id",
        "http_status",
        "cause",
        "committed",
        "in_flight",
        "merchant_id",
        "scheme",
        "request_encrypted",
        "reply_encrypted",
    ]
    told = [(line["operation"], line["invoice_id"], line["http_status"], line["cause"]) for line in lines]
    assert told == [
        ("cancel", "1", 200, None),
        ("cancel", "RESET-AFTER-1", None, "reset_after"),
        ("get", "PAID-1", 200, None),
        ("get", "1", 401, "no credentials"),
    ]
    assert [line["committed"] for line in lines] == [True, True, False, False]
    assert [(line["merchant_id"], line["scheme"]) for line in lines] == [
        *([(SANDBOX_MERCHANT_ID, "HS256")] * 3),
        (None, None),
    ]
    assert lines[0]["target"] == f"{ROOT}/1/cancelation"
    assert abs(lines[0]["at"] - time.time()) < 60
    text = log.read_text()
    assert all(word not in text for word in (SANDBOX_SECRET, "Bearer", "eyJ", "Tanya"))


async def test_the_log_counts_the_requests_in_flight(tmp_path: Path) -> None:
    """Requests that wait for their reply are counted, and leave the count when answered."""
    log = tmp_path / "requests.jsonl"
    async with serving(log=log, latency_ms=200) as client:
        await asyncio.gather(*(client.cancel(str(number)) for number in range(5)))
        await client.cancel("last")
        lines = log_lines(log)
    assert sorted(line["in_flight"] for line in lines[:5]) == [1, 2, 3, 4, 5]
    assert lines[5]["in_flight"] == 1


async def test_a_log_is_appended_to(tmp_path: Path) -> None:
    """A simulator that is started again keeps what was logged before."""
    log = tmp_path / "requests.jsonl"
    for invoice_id in ("1", "2"):
        async with serving(log=log) as client:
            await client.cancel(invoice_id)
    assert [line["invoice_id"] for line in log_lines(log)] == ["1", "2"]


async def test_the_simulator_starts_in_well_under_a_tenth_of_a_second() -> None:
    """It runs inside the client's process as well, so its start must not be felt."""
    took_s = []
    for _ in range(3):
        started_s = time.perf_counter()
        async with Sandbox(SandboxOptions()) as server:
            took_s.append(time.perf_counter() - started_s)
            assert server.base_url.startswith("http://127.0.0.1:")
    # The best of three: another process may have held the processor.
    assert min(took_s) < 0.1


async def test_an_ipv6_address_is_served_with_brackets() -> None:
    """The base URL of an IPv6 address is a proper URL."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:  # containers often have none, and the address can't be made up
        pytest.skip("this machine has no IPv6 loopback")
    async with Sandbox(SandboxOptions(), host="::1") as server, aiohttp.ClientSession() as session:
        assert server.base_url.startswith("http://[::1]:")
        async with session.get(server.base_url) as response:
            assert response.status == 404


async def test_a_port_in_use_is_an_error_that_leaves_the_log_closed(tmp_path: Path) -> None:
    """What was opened before the failure is closed again."""
    async with Sandbox(SandboxOptions()) as first:
        port = int(first.base_url.rpartition(":")[2])
        second = Sandbox(SandboxOptions(log=tmp_path / "log"), port=port)
        with pytest.raises(OSError, match="in use"):
            await second.__aenter__()
        assert second._log is not None
        assert second._log.closed


async def test_a_certificate_and_encryption_both_ways_work_over_the_wire(
    key_holder: KeyHolder, tmp_path: Path
) -> None:
    """What is encrypted comes back encrypted, and the log says so without a word of what was in it."""
    log = tmp_path / "requests.jsonl"
    known: dict[str, Any] = {"merchant_id": key_holder.signer_id, "keys": key_holder.files.read()}
    async with serving(log=log, **known) as client:
        status, reply = await send_encrypted(client.session, client.server.base_url, key_holder, "PAID-1")
        assert (status, reply["status"]) == (400, "BADREQUEST")
        status, reply = await send_encrypted(client.session, client.server.base_url, key_holder, "2675")
        assert (status, reply["id"], reply["status"]) == (200, "2675", "CANCELED")
        assert client.server.state("2675") == "CANCELED"
        assert client.server.state("2675", key_holder.signer_id) == "CANCELED"
        lines = log_lines(log)
    facts = ("merchant_id", "scheme", "request_encrypted", "reply_encrypted", "cause")
    assert [[line[fact] for fact in facts] for line in lines] == [
        ["key_merchant", "RS256", True, True, None]
    ] * 2
    assert "eyJ" not in log.read_text()
    assert "Tanya" not in log.read_text()


# --- the command ---------------------------------------------------------------------------------


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command as a process, and end it whatever happens."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BATCHCANCEL_")}
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean | environment,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            if process.poll() is None:
                process.kill()


def post(base_url: str, invoice_id: str, secret: str = SANDBOX_SECRET) -> int:
    """Cancel an invoice at a running command; return the HTTP status."""

    async def send() -> int:
        target = f"{ROOT}/{invoice_id}/cancelation"
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                base_url + target, data=b"{}", headers=bearer("POST", target, b"{}", secret)
            ) as response,
        ):
            return response.status

    return asyncio.run(send())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_the_command_serves_until_a_signal_and_ends_with_0(number: signal.Signals, tmp_path: Path) -> None:
    """One line on standard output, instructions on standard error, a clean end."""
    log = tmp_path / "requests.jsonl"
    with running("--port", "0", "--log", str(log)) as (process, line):
        assert line.startswith("batchcancel sandbox on http://127.0.0.1:")
        assert post(line.rpartition(" ")[2], "2675") == 200
        # Readable before the process ends: a line is written when its request is decided.
        assert [entry["committed"] for entry in log_lines(log)] == [True]
        process.send_signal(number)
        rest, instructions = process.communicate(timeout=10)
        assert process.returncode == 0
    assert rest == ""
    for text in (SANDBOX_MERCHANT_ID, SANDBOX_KEY_ID, SANDBOX_SECRET, "--base-url http://127.0.0.1:"):
        assert text in instructions
    assert "Warning" not in instructions


def test_the_command_takes_credentials_from_the_environment_and_does_not_show_the_secret(
    tmp_path: Path,
) -> None:
    """A secret of one's own, from a file here, is used and never printed."""
    secret = base64.b64encode(b"a secret of one's own").decode()
    path = tmp_path / "secret"
    path.write_text(f"{secret}\n")
    settings = {
        "BATCHCANCEL_SHARED_SECRET_FILE": str(path),
        "BATCHCANCEL_PORTFOLIO_ID": SANDBOX_MERCHANT_ID,
    }
    with running("--port", "0", **settings) as (process, line):
        assert post(line.rpartition(" ")[2], "2675", secret) == 200
        assert post(line.rpartition(" ")[2], "2676") == 401
        process.terminate()
        _, instructions = process.communicate(timeout=10)
    assert secret not in instructions
    assert f"BATCHCANCEL_PORTFOLIO_ID={SANDBOX_MERCHANT_ID}" in instructions


def test_the_command_says_that_a_port_is_in_use_and_ends_with_2() -> None:
    """One sentence, no traceback, nothing on standard output."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with running("--port", port) as (process, line):
            _, error = process.communicate(timeout=10)
            assert process.returncode == 2
    assert line == ""
    assert error == f"Error: Port {port} on 127.0.0.1 is in use; choose another one with --port.\n"


def test_the_command_warns_of_an_address_that_is_not_loopback() -> None:
    """Whoever opens the simulator to a network is told so."""
    with running("--port", "0", "--host", "0.0.0.0") as (process, line):  # noqa: S104 - that is the point
        assert line.startswith("batchcancel sandbox on http://0.0.0.0:")
        process.terminate()
        _, error = process.communicate(timeout=10)
    assert error.startswith("Warning: 0.0.0.0 is not loopback")


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        pytest.param(["--error-share", "0.7", "--html-share", "0.7"], {}, "add up to more", id="shares"),
        pytest.param(["--error-share", "2"], {}, "0<=x<=1", id="range"),
        pytest.param([], {"BATCHCANCEL_SHARED_SECRET": "no base64"}, "not base64", id="secret"),
        pytest.param([], {"BATCHCANCEL_SHARED_SECRET_FILE": "/nowhere/at/all"}, "can't be read", id="file"),
        pytest.param(["--log", "/nowhere/at/all"], {}, "can't start", id="log"),
        pytest.param(["--host", "192.0.2.1"], {}, "can't start", id="host"),
        pytest.param(["--certificate", "/nowhere/at/all"], {}, "can't be read", id="certificate"),
        pytest.param(["--mle-key", __file__], {}, f"{__file__}: no certificate in PEM form.", id="mle-key"),
        pytest.param(["--make-keys", "/proc/nowhere"], {}, "Keys can't be made", id="make-keys"),
        pytest.param(
            ["--make-keys", "/nowhere", "--certificate", "/nowhere"], {}, "for all keys", id="two-keys"
        ),
        pytest.param(["--require-mle"], {}, "without a key to decrypt with", id="require-mle"),
        pytest.param(["--merchant", "second"], {}, "Only a portfolio", id="merchants"),
        pytest.param(["--plain-status", "99"], {}, "200<=x<=599", id="plain-status"),
    ],
)
def test_the_command_refuses_what_makes_no_sense_with_2(
    arguments: list[str],
    environment: dict[str, str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong flag, secret, file or address is said in a sentence."""
    for name in list(os.environ):
        if name.startswith("BATCHCANCEL_"):
            monkeypatch.delenv(name)
    result = CliRunner().invoke(sandbox_command, ["--port", "0", *arguments], env=environment)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "no base64" not in result.stderr


def test_the_command_has_a_flag_for_every_option() -> None:
    """Whatever the simulator can be told, but credentials and keys, has a flag of the same name."""
    flags = {parameter.name for parameter in sandbox_command.params if isinstance(parameter, click.Option)}
    credentials = {"merchant_id", "key_id", "secret", "portfolio_id"}
    of_keys = {"certificate", "mle_key", "response_mle_certificate", "make_keys"}
    assert flags - {"host", "port", "no_retry_after"} - of_keys == set(
        SandboxOptions.__slots__
    ) - credentials - {"keys"}


def test_the_command_hands_its_flags_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every flag reaches the simulator as the option of its name."""
    seen: list[SandboxOptions] = []

    async def serve(options: SandboxOptions, host: str, port: int, throwaway: object) -> None:
        seen.append(options)
        assert (host, port, throwaway) == ("localhost", 1234, None)

    monkeypatch.setattr("batchcancel.cli.sandbox._serve", serve)
    line = (
        "--host localhost --port 1234 --seed 5 --latency-ms 1 --jitter-ms 2 --slow-share 0.1 --slow-ms 3"
        " --rate-limit 4 --no-retry-after --error-share 0.1 --html-share 0.1 --reset-before-share 0.1"
        " --reset-after-share 0.1 --truncate-share 0.1 --outage 1 2 --clock-offset-s -5 --clock-skew-s 6"
        " --log requests.jsonl --rate-limit-kind bucket --rate-change 7 8"
        " --merchant second --merchant third --plain-status 401 --plain-status 502"
    )
    names = ("MERCHANT_ID", "KEY_ID", "PORTFOLIO_ID")
    environment: dict[str, str | None] = {f"BATCHCANCEL_{name}": name for name in names}
    environment |= {"BATCHCANCEL_SHARED_SECRET": "c2VjcmV0", "BATCHCANCEL_SHARED_SECRET_FILE": "/nowhere"}
    result = CliRunner().invoke(sandbox_command, line.split(), env=environment)
    assert (result.exit_code, result.output) == (0, "")
    assert seen == [
        SandboxOptions(
            merchant_id="MERCHANT_ID",
            key_id="KEY_ID",
            secret="c2VjcmV0",
            portfolio_id="PORTFOLIO_ID",
            seed=5,
            latency_ms=1,
            jitter_ms=2,
            slow_share=0.1,
            slow_ms=3,
            rate_limit=4,
            rate_limit_kind=RateLimitKind.BUCKET,
            rate_change=(7, 8),
            retry_after_s=None,
            error_share=0.1,
            html_share=0.1,
            reset_before_share=0.1,
            reset_after_share=0.1,
            truncate_share=0.1,
            outage=(1, 2),
            clock_offset_s=-5,
            clock_skew_s=6,
            log=Path("requests.jsonl"),
            merchants=("second", "third"),
            plain_statuses=(401, 502),
        )
    ]


def post_encrypted(base_url: str, holder: KeyHolder, **claims: Any) -> str:
    """Cancel an invoice at a running command, encrypted both ways; return the status that it took."""

    async def send() -> str:
        async with aiohttp.ClientSession() as session:
            return str((await send_encrypted(session, base_url, holder, "2675", **claims))[1]["status"])

    return asyncio.run(send())


def test_the_command_makes_keys_serves_with_them_and_takes_them_again(
    open_keys: Callable[[ThrowawayKeys], KeyHolder], tmp_path: Path
) -> None:
    """What it prints is what a client needs; the password stays in its file."""
    files = ThrowawayKeys(folder=tmp_path / "keys")
    arguments = ["--port", "0", "--require-mle", "--make-keys", str(files.folder)]
    with running(*arguments, BATCHCANCEL_MERCHANT_ID="made_up") as (process, line):
        base_url = line.rpartition(" ")[2]
        holder = open_keys(files)
        assert holder.signer_id == "made_up"
        assert post_encrypted(base_url, holder) == "CANCELED"
        process.terminate()
        _, instructions = process.communicate(timeout=10)
    block = instructions.partition("or, to sign with a certificate")[2]
    variables = dict(line.strip().split("=") for line in block.splitlines() if "=" in line)
    assert variables == {
        "BATCHCANCEL_MERCHANT_ID": "made_up",
        "BATCHCANCEL_AUTH": "p12",
        "BATCHCANCEL_KEY_ALIAS": "made_up",
        "BATCHCANCEL_P12_FILE": str(files.signing_p12),
        "BATCHCANCEL_P12_PASSWORD_FILE": str(files.password_file),
        "BATCHCANCEL_MLE": "both",
        "BATCHCANCEL_MLE_CERT_FILE": str(files.encryption_certificate),
        "BATCHCANCEL_MLE_RESPONSE_KEY_FILE": str(files.response_p12),
        "BATCHCANCEL_MLE_RESPONSE_KEY_PASSWORD_FILE": str(files.password_file),
    }
    assert files.password_file.read_text().strip() not in instructions
    with running(*arguments, BATCHCANCEL_MERCHANT_ID="made_up") as (process, line):
        assert post_encrypted(line.rpartition(" ")[2], holder) == "CANCELED"


def test_the_command_takes_keys_from_files_for_a_portfolio(key_holder: KeyHolder) -> None:
    """Each file has a flag of its own, and every merchant of the portfolio its invoices."""
    files = key_holder.files
    arguments = ["--certificate", files.signing_certificate, "--mle-key", files.encryption_key]
    arguments += ["--response-mle-certificate", files.response_certificate]
    settings = {"BATCHCANCEL_PORTFOLIO_ID": key_holder.signer_id}
    with running("--port", "0", "--merchant", "second", *map(str, arguments), **settings) as (process, line):
        base_url = line.rpartition(" ")[2]
        for merchant_id in (SANDBOX_MERCHANT_ID, "second"):
            claims = {"v-c-merchant-id": merchant_id}
            assert post_encrypted(base_url, key_holder, **claims) == "CANCELED"
            assert post_encrypted(base_url, key_holder, **claims) == "BADREQUEST"
        process.terminate()
        _, instructions = process.communicate(timeout=10)
    assert "P12" not in instructions


def test_the_help_does_not_load_the_web_server() -> None:
    """Help comes without the import time of what only serving needs."""
    code = (
        "import sys\nfrom batchcancel.cli.sandbox import sandbox\n"
        "sandbox(['--help'], standalone_mode=False)\n"
        "assert not {'aiohttp.web', 'batchcancel.sandbox'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert result.returncode == 0, result.stderr
    assert "--reset-after-share" in result.stdout
