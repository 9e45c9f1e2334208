"""``doctor`` against services over real sockets: what it finds, and that nothing but reads leaves."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from batchcancel.api import Client
from batchcancel.api.reach import Obstacle, Reach
from batchcancel.errors import GateRefusedError
from batchcancel.job.connect import build_client
from batchcancel.sandbox import (
    SANDBOX_KEY_ID,
    SANDBOX_MERCHANT_ID,
    SANDBOX_SECRET,
    Sandbox,
    SandboxOptions,
)
from batchcancel.tasks.doctor import Check, Examination, Grade

if TYPE_CHECKING:
    from tests.conftest import Authority, KeyHolder

SECRET = base64.b64encode(b"a secret that nobody may ever see").decode()
KEY = {
    "BATCHCANCEL_MERCHANT_ID": SANDBOX_MERCHANT_ID,
    "BATCHCANCEL_KEY_ID": SANDBOX_KEY_ID,
    "BATCHCANCEL_SHARED_SECRET": SANDBOX_SECRET,
}


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep files of the machine's user out."""
    monkeypatch.chdir(tmp_path)


async def examine(
    environ: dict[str, str] = KEY, *, with_live_check: bool = False, **flags: Any
) -> dict[str, Check]:
    """Examine, and return the checks by name; none of them may show a secret."""
    examination = Examination(
        environ, {"env": "sandbox", **flags}, with_live_check=with_live_check, tell=lambda _: None
    )
    await examination.run()
    said = repr(examination.checks)
    for name in ("BATCHCANCEL_SHARED_SECRET", "BATCHCANCEL_P12_PASSWORD"):
        assert environ.get(name, "\0") not in said
    return {check.name: check for check in examination.checks}


def grades(checks: dict[str, Check]) -> dict[str, str]:
    """Return what is not well."""
    usual = {Grade.OK, Grade.SKIP}
    return {name: check.grade.value for name, check in checks.items() if check.grade not in usual}


@asynccontextmanager
async def serve(
    answer: Callable[[web.BaseRequest], web.Response], *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Serve one answer to everything on loopback, and yield the base URL, which names ``localhost``."""

    async def handle(request: web.BaseRequest) -> web.Response:
        return answer(request)

    runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield f"http{'s' if tls else ''}://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def replying(status: int, body: object = None, **headers: str) -> Callable[[web.BaseRequest], web.Response]:
    """Answer everything with one status and some JSON, or with bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    return lambda _request: web.Response(status=status, body=content, headers=headers)


# --- a good service -------------------------------------------------------------------------------


async def test_the_simulator_in_the_process_needs_nothing() -> None:
    """No credentials, no network, nothing to mend."""
    checks = await examine({})
    assert grades(checks) == {}
    assert checks["signed read"].found.startswith("answered 404 in ")
    assert list(checks)[-4:] == ["signed read", "feature", "clock", "encryption"]


async def test_a_good_key_is_accepted_and_only_read_with() -> None:
    """One signed read, and not a single POST."""
    async with Sandbox(SandboxOptions()) as server:
        checks = await examine(base_url=server.base_url)
        assert dict(server.requests) == {"list": 1}
    assert grades(checks) == {}
    assert checks["secret"].found == "base64 of 33 bytes"
    assert checks["clock"].found == "right, to two seconds"


@pytest.mark.parametrize("with_live_check", [False, True])
async def test_nothing_but_reads_can_leave_without_a_live_check(
    *, monkeypatch: pytest.MonkeyPatch, with_live_check: bool
) -> None:
    """The client itself refuses everything else."""
    modes: list[bool] = []

    def build(*arguments: Any, **options: Any) -> Client:
        modes.append(options["is_read_only"])
        return build_client(*arguments, **options)

    monkeypatch.setattr("batchcancel.tasks.doctor.examine.build_client", build)
    await examine({}, with_live_check=with_live_check)
    assert modes == [not with_live_check]


async def test_certificates_and_encryption_are_looked_at(key_holder: KeyHolder) -> None:
    """A P12 file that signs, and replies that come encrypted."""
    files = key_holder.files
    environ = {
        "BATCHCANCEL_AUTH": "p12",
        "BATCHCANCEL_MERCHANT_ID": key_holder.signer_id,
        "BATCHCANCEL_P12_FILE": str(files.signing_p12),
        "BATCHCANCEL_P12_PASSWORD_FILE": str(files.password_file),
        "BATCHCANCEL_MLE": "both",
        "BATCHCANCEL_MLE_RESPONSE_KEY_FILE": str(files.response_p12),
        "BATCHCANCEL_MLE_RESPONSE_KEY_PASSWORD_FILE": str(files.password_file),
    }
    options = SandboxOptions(merchant_id=key_holder.signer_id, keys=files.read())
    async with Sandbox(options) as server:
        checks = await examine(environ, base_url=server.base_url)
        wrong = await examine(environ | {"BATCHCANCEL_KEY_ALIAS": "nobody"}, base_url=server.base_url)
    assert grades(checks) == {}
    assert "days left (" in checks["key files"].found
    assert checks["encryption"].found == "the reply came encrypted and was decrypted"
    assert grades(wrong) == {"key files": "fail"}
    assert "no certificate for nobody" in wrong["key files"].found
    assert wrong["signed read"].grade is Grade.SKIP


# --- a service that refuses -----------------------------------------------------------------------


async def test_a_wrong_key_says_what_to_compare() -> None:
    """Twice refused: by this machine's clock and by the service's."""
    async with Sandbox(SandboxOptions()) as server:
        checks = await examine(KEY | {"BATCHCANCEL_SHARED_SECRET": SECRET}, base_url=server.base_url)
        assert server.requests["list"] == 2
    assert grades(checks) == {"signed read": "fail"}
    todo = checks["signed read"].todo
    assert todo is not None
    assert "BATCHCANCEL_KEY_ID and the secret belong together" in todo
    assert checks["feature"].grade is Grade.SKIP


async def test_a_wrong_key_may_be_the_clock_where_the_service_says_no_time() -> None:
    """Then nothing rules it out."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()

    async with listening(handle) as port:
        checks = await examine(base_url=f"http://127.0.0.1:{port}")
    todo = checks["signed read"].todo
    assert todo is not None
    assert "It may be this machine's clock too" in todo


@pytest.mark.parametrize(
    ("offset_s", "found"),
    [
        (-3600, "ahead of the service; signed by this machine's clock the read was refused"),
        (3600, "behind the service; signed by this machine's clock the read was refused"),
        (60, "behind the service; requests are dated by the service's clock"),
    ],
    ids=["an hour ahead", "an hour behind", "a minute behind"],
)
async def test_a_wrong_clock_is_told_and_worked_around(offset_s: float, found: str) -> None:
    """The read is signed once more by the service's clock, as a run does it."""
    async with Sandbox(SandboxOptions(clock_offset_s=offset_s)) as server:
        checks = await examine(base_url=server.base_url)
    assert grades(checks) == {"clock": "warn"}
    assert found in checks["clock"].found
    assert abs(abs(offset_s) - int(checks["clock"].found.split()[3])) <= 2


@pytest.mark.parametrize(
    ("answer", "bad", "words"),
    [
        pytest.param(
            replying(400, {"status": "BADREQUEST", "message": "Invoicing service is not enabled."}),
            {"feature": "fail"},
            "invoicing is probably not enabled. It says: Invoicing service is not enabled.",
            id="feature disabled",
        ),
        pytest.param(replying(403), {"signed read": "fail"}, "may not read invoices", id="forbidden"),
        pytest.param(replying(429), {"signed read": "warn"}, "too many requests", id="throttled"),
        pytest.param(
            replying(502, b"<html>"), {"signed read": "fail"}, "the service fails", id="bad gateway"
        ),
        pytest.param(replying(302), {"signed read": "fail"}, "no word of the invoicing", id="redirect"),
        pytest.param(
            replying(200, b"<html>"), {"signed read": "fail"}, "no word of the invoicing", id="page"
        ),
        pytest.param(
            replying(404, b"<html>"), {"signed read": "fail"}, "no word of the invoicing", id="lost"
        ),
    ],
)
async def test_what_a_service_answers_is_told(
    answer: Callable[[web.BaseRequest], web.Response], bad: dict[str, str], words: str
) -> None:
    """Each answer with what it means."""
    async with serve(answer) as base_url:
        checks = await examine(base_url=base_url)
    assert grades(checks) == bad
    assert words in checks[next(iter(bad))].found


async def test_a_service_without_a_date_is_a_warning() -> None:
    """Then this machine's clock has to do."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async with listening(handle) as port:
        checks = await examine(base_url=f"http://127.0.0.1:{port}")
    assert grades(checks) == {"clock": "warn"}
    assert "no Date" in checks["clock"].found


async def test_an_encrypted_reply_that_was_not_asked_for_is_told() -> None:
    """It can't be read, and a run could not read it either."""
    async with serve(replying(200, {"encryptedResponse": "x.y"})) as base_url:
        checks = await examine(base_url=base_url)
    assert grades(checks) == {"encryption": "fail"}


# --- settings that can't be used ------------------------------------------------------------------


async def test_missing_credentials_leave_the_network_checks() -> None:
    """Whoever has no key yet can find out whether the host can be reached."""
    async with Sandbox(SandboxOptions()) as server:
        checks = await examine({"BATCHCANCEL_KEY_ID": "k"}, base_url=server.base_url)
        assert not server.requests
    assert grades(checks) == {"credentials": "fail"}
    assert "BATCHCANCEL_SHARED_SECRET (or BATCHCANCEL_SHARED_SECRET_FILE)" in checks["credentials"].found
    assert checks["connection"].grade is Grade.OK
    assert checks["signed read"].grade is Grade.SKIP


async def test_a_broken_configuration_leaves_the_rest(tmp_path: Path) -> None:
    """What can be looked at is, and everything else says why not."""
    (tmp_path / "batchcancel.toml").write_text("key_id = [")
    checks = await examine(KEY, ledger=str(tmp_path / "x.jsonl"))
    assert grades(checks) == {"configuration": "fail"}
    assert "batchcancel.toml can't be read" in checks["configuration"].found
    assert checks["environment"].found.startswith("BATCHCANCEL_KEY_ID, ")
    assert checks["ledger"].grade is Grade.OK
    assert checks["dns"].found == "the settings have to be mended first"


@pytest.mark.parametrize(
    ("environ", "flags", "bad"),
    [
        pytest.param({}, {"env": "test", "base_url": "https://localhost"}, "target", id="another host"),
        pytest.param({}, {"env": None}, "target", id="no env"),
        pytest.param({"BATCHCANCEL_SHARED_SECRET": "'x'"}, {}, "secret", id="quoted secret"),
        pytest.param({"BATCHCANCEL_CA_FILE": "gone.pem"}, {}, "roots", id="missing roots"),
        pytest.param({"BATCHCANCEL_RATE_PER_MERCHANT": "3"}, {}, "options", id="what a run refuses"),
    ],
)
async def test_each_unusable_setting_is_told_once(
    environ: dict[str, str], flags: dict[str, Any], bad: str
) -> None:
    """One fault, one line that fails, and no request."""
    async with Sandbox(SandboxOptions()) as server:
        checks = await examine(KEY | environ, **({"base_url": server.base_url} | flags))
        assert not server.requests
    assert grades(checks) == {bad: "fail"}
    assert checks["signed read"].grade is Grade.SKIP


# --- the way to the host --------------------------------------------------------------------------


@asynccontextmanager
async def listening(handle: Callable[..., Any]) -> AsyncIterator[int]:
    """Serve raw connections on loopback and yield the port."""
    tasks = set()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            try:
                await handle(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(guarded(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_refused_connection_is_told() -> None:
    """Nobody listens on that port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    checks = await examine(base_url=f"http://127.0.0.1:{port}")
    assert grades(checks) == {"connection": "fail"}
    assert "refused" in checks["connection"].found
    assert checks["signed read"].found == "the host can't be reached"


async def test_a_name_without_an_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without any network; the name is said, and what to look at."""

    def unknown(*_arguments: Any, **_options: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    checks = await examine(env="test")
    assert grades(checks) == {"dns": "fail"}
    assert checks["dns"].found == (
        "The name apitest.visaacceptance.com has no address: Name or service not known."
    )
    assert checks["certificate"].grade is Grade.SKIP


async def test_a_name_service_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait has an end."""

    async def forever(*_arguments: Any, **_options: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", forever)
    checks = await examine(env="test", timeout=0.05)
    assert "no answer within 0.05 s" in checks["dns"].found


async def _say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def _speak_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("handle", "bad", "words"),
    [
        (_say_nothing, "connection", "no connection in time"),
        (_speak_plainly, "tls", "No TLS from version 1.2 on"),
    ],
    ids=["silent", "no TLS"],
)
async def test_a_port_that_speaks_no_tls_is_told(handle: Callable[..., Any], bad: str, words: str) -> None:
    """And where the way ended."""
    async with listening(handle) as port:
        checks = await examine(base_url=f"https://localhost:{port}", timeout=0.3)
    assert grades(checks) == {bad: "fail"}
    assert words in checks[bad].found


async def test_a_trusted_certificate_is_told_with_its_days(authority: Authority) -> None:
    """Private roots count; ten hours are few."""
    dated = replying(200, {}, Date=formatdate(usegmt=True))
    environ = KEY | {"BATCHCANCEL_CA_FILE": str(authority.ca_file)}
    async with serve(dated, tls=authority.server_context(days=100)) as base_url:
        checks = await examine(environ, base_url=base_url)
    assert grades(checks) == {}
    assert checks["tls"].found == "TLSv1.3"
    assert checks["certificate"].found == (
        f"chain and name verified with the system's roots and {authority.ca_file}; "
        "issued by throwaway root, 99 days left"
    )
    async with serve(dated, tls=authority.server_context(days=1)) as base_url:
        checks = await examine(environ, base_url=base_url)
    assert grades(checks) == {"certificate": "warn"}


@pytest.mark.parametrize(
    ("certificate", "is_root_known", "words"),
    [
        pytest.param({}, False, "unable to get local issuer certificate", id="self-made root"),
        pytest.param({"days": -3}, True, "certificate has expired", id="expired"),
        pytest.param({"name": "other.example"}, True, "Hostname mismatch", id="another name"),
    ],
)
async def test_an_untrusted_certificate_is_told_and_nothing_is_sent(
    *, authority: Authority, certificate: dict[str, Any], is_root_known: bool, words: str
) -> None:
    """Who issued it and until when helps to understand; the key stays at home."""
    heads: list[str] = []

    def note(request: web.BaseRequest) -> web.Response:
        heads.append(request.path)
        return web.Response()

    environ = KEY | ({"BATCHCANCEL_CA_FILE": str(authority.ca_file)} if is_root_known else {})
    async with serve(note, tls=authority.server_context(**certificate)) as base_url:
        checks = await examine(environ, base_url=base_url)
    assert heads == []
    assert grades(checks) == {"certificate": "fail"}
    assert words in checks["certificate"].found
    assert "It was issued by throwaway root, " in checks["certificate"].found
    assert ("expired 3 days ago" in checks["certificate"].found) is ("days" in certificate)
    assert checks["signed read"].grade is Grade.SKIP


class _Tunnel:
    """A proxy that tunnels everything to one port, or answers what it is told to."""

    def __init__(self, port: int, answer: bytes | None = None) -> None:
        self.heads: list[str] = []
        self._port = port
        self._answer = answer

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        if self._answer is not None:
            writer.write(self._answer)
            await writer.drain()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            far_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def test_the_way_through_a_proxy_is_gone(authority: Authority) -> None:
    """The proxy is named without its password; TLS and certificate are the host's."""
    async with AsyncExitStack() as stack:
        tls = authority.server_context(name="invoices.test", days=100)
        base_url = await stack.enter_async_context(serve(replying(200, {}), tls=tls))
        tunnel = _Tunnel(int(base_url.rpartition(":")[2]))
        port = await stack.enter_async_context(listening(tunnel.handle))
        checks = await examine(
            KEY
            | {
                "BATCHCANCEL_CA_FILE": str(authority.ca_file),
                "HTTPS_PROXY": f"http://finance:passw0rd@127.0.0.1:{port}",
            },
            env="production",
            base_url="https://invoices.test",
        )
    assert grades(checks) == {}
    assert checks["proxy"].found == f"127.0.0.1 port {port}, from HTTPS_PROXY"
    assert f"through the proxy at 127.0.0.1 port {port}" in checks["connection"].found
    assert "issued by throwaway root" in checks["certificate"].found
    assert checks["signed read"].found.startswith("answered 200")
    assert {head.split(" HTTP")[0] for head in tunnel.heads} == {"CONNECT invoices.test:443"}
    assert "passw0rd" not in repr(checks)


@pytest.mark.parametrize("status", [407, 403])
async def test_a_proxy_that_lets_nobody_through_is_told(status: int) -> None:
    """Its status is said to be its own."""
    tunnel = _Tunnel(0, f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())
    async with listening(tunnel.handle) as port:
        checks = await examine(
            KEY | {"BATCHCANCEL_PROXY": f"http://127.0.0.1:{port}"},
            env="production",
            base_url="https://invoices.test",
        )
    assert grades(checks) == {"connection": "fail"}
    assert checks["connection"].found == f"The proxy lets nobody through: it answers {status}."


async def test_a_proxy_that_is_not_there_is_told() -> None:
    """Nobody listens on its port."""
    async with listening(_say_nothing) as port:
        pass
    checks = await examine(
        KEY | {"BATCHCANCEL_PROXY": f"http://127.0.0.1:{port}"},
        env="production",
        base_url="https://invoices.test",
    )
    assert grades(checks) == {"connection": "fail"}
    assert checks["connection"].found.startswith("The proxy lets nobody through: ")


@pytest.mark.parametrize("proxy", ["http://nowhere.invalid:8080", f"http://{'x' * 70}.test:8080"])
async def test_a_proxy_whose_name_has_no_address_is_told(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """It is the proxy's name that is looked up, not the host's."""

    def unknown(host: str, *_arguments: Any, **_options: Any) -> None:
        host.encode("idna")
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    checks = await examine(KEY | {"BATCHCANCEL_PROXY": proxy}, env="production")
    assert grades(checks) == {"dns": "fail"}
    assert checks["dns"].found.startswith(f"The name {proxy[7:].partition(':')[0]} has no address: ")


async def test_addresses_are_told_but_not_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have many."""

    async def many(*_arguments: Any, **_options: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{n}", 0)) for n in range(6)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", many)
    monkeypatch.setattr("batchcancel.tasks.doctor.network.reach", _nowhere)
    checks = await examine(env="test")
    assert checks["dns"].found == (
        "apitest.visaacceptance.com is 192.0.2.0, 192.0.2.1, 192.0.2.2, 192.0.2.3 and 2 more"
    )
    assert checks["connection"].found == "No connection: no connection in time."


async def _nowhere(*_arguments: Any, **_options: Any) -> Reach:
    return Reach(obstacle=Obstacle.TIME, detail="no connection in time")


# --- production -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [{"env": "production"}, {"env": "production", "base_url": "https://invoices.test"}],
    ids=["by name", "by host"],
)
async def test_a_live_check_in_production_is_refused_before_anything_leaves(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any]
) -> None:
    """Not even a name is looked up."""

    def refuse(*_arguments: Any, **_options: Any) -> None:
        pytest.fail("a name was looked up")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(GateRefusedError, match=r"is production\. Nothing was sent"):
        await examine(with_live_check=True, **flags)


async def test_a_production_host_called_a_test_gets_no_live_check() -> None:
    """The gate goes by the host, never by the word: they disagree, so nothing is called."""
    checks = await examine(with_live_check=True, env="test", base_url="https://api.visaacceptance.com")
    assert grades(checks) == {"target": "fail"}
    assert checks["live check"].grade is Grade.SKIP
