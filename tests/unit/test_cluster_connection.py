"""How Temporal is reached, and what is said when it can't be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode, TLSConfig

from batchcancel.cli.engine import take_engine_options
from batchcancel.cluster import running
from batchcancel.cluster.connection import (
    _explained,
    _tls,
    _translated,
    account_of,
    shard_queue_of,
    workflow_id_of,
)
from batchcancel.errors import EngineError, SettingsError
from batchcancel.settings import load_settings
from batchcancel.settings.engine import EngineOptions
from batchcancel.settings.secret_files import Secret

FLAGS: dict[str, Any] = {
    "temporal_address": "temporal:7233",
    "temporal_namespace": None,
    "temporal_task_queue": None,
    "temporal_tls": False,
    "temporal_tls_ca": None,
    "temporal_tls_cert": None,
    "temporal_tls_key": None,
    "config": None,
    "profile": None,
}
CREDENTIALS = {
    "BATCHCANCEL_MERCHANT_ID": "m",
    "BATCHCANCEL_KEY_ID": "00000000-0000-4000-8000-000000000001",
    "BATCHCANCEL_SHARED_SECRET": "b3BlbnMgbm90aGluZw==",
}


def test_plain_text_is_for_those_who_ask_for_nothing_else() -> None:
    """An API key never travels in plain text."""
    assert _tls(EngineOptions()) is False
    assert _tls(EngineOptions(tls=True)) is True
    assert _tls(EngineOptions(api_key=Secret(b"k"))) is True


def test_certificates_are_read_from_their_files(tmp_path: Path) -> None:
    """A root of one's own, a certificate of one's own, or both."""
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_bytes(name.encode())
    ca, cert, key = (tmp_path / name for name in ("ca", "cert", "key"))
    assert _tls(EngineOptions(tls_ca=ca)) == TLSConfig(server_root_ca_cert=b"ca")
    assert _tls(EngineOptions(tls_ca=ca, tls_cert=cert, tls_key=key)) == TLSConfig(
        server_root_ca_cert=b"ca", client_cert=b"cert", client_private_key=b"key"
    )
    with pytest.raises(SettingsError, match="missing can't be read: No such file"):
        _tls(EngineOptions(tls_ca=tmp_path / "missing"))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        pytest.param(RPCStatusCode.NOT_FOUND, "has no namespace 'default'", id="namespace"),
        pytest.param(RPCStatusCode.PERMISSION_DENIED, "refuses this client", id="permission"),
        pytest.param(RPCStatusCode.UNAUTHENTICATED, "BATCHCANCEL_TEMPORAL_API_KEY", id="no credentials"),
        pytest.param(RPCStatusCode.UNAVAILABLE, "can't be reached at", id="not there"),
    ],
)
def test_each_refusal_says_what_to_mend(status: RPCStatusCode, words: str) -> None:
    """The server's own words may quote what it was given, and are not used."""
    assert words in str(_explained(status, EngineOptions()))


def test_an_account_is_environment_host_and_merchant() -> None:
    """Workers only take what they have credentials for: their queue goes by that."""
    settings = load_settings([], environ=CREDENTIALS, for_run=False, env="test")
    account = account_of(settings, merchant_id="m")
    assert str(account) == "test/apitest.visaacceptance.com/m"
    assert shard_queue_of(account, EngineOptions()) == f"batchcancel-shards/{account}"
    assert shard_queue_of(account, EngineOptions(task_queue="mine")) == "mine"
    assert workflow_id_of(account) == f"batchcancel/{account}"
    inside = load_settings([], environ={}, for_run=False, env="sandbox")
    with pytest.raises(SettingsError, match="--base-url"):
        account_of(inside, merchant_id="m")


def test_a_command_s_other_flags_are_left_to_it() -> None:
    """Those that say where Temporal is are taken out."""
    flags = FLAGS | {"env": "test"}
    assert take_engine_options(flags).address == "temporal:7233"
    assert flags == {"env": "test", "config": None, "profile": None}


def test_library_that_is_missing_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is not in everyone's installation; any other missing module is a defect."""
    for name in [name for name in sys.modules if name.startswith(("temporalio", "batchcancel.cluster"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "temporalio", None)
    with pytest.raises(EngineError, match=r"pip install 'batchcancel\[cluster\]'"):
        take_engine_options(dict(FLAGS))
    monkeypatch.setitem(sys.modules, "batchcancel.cluster.connection", None)
    with pytest.raises(ModuleNotFoundError):
        take_engine_options(dict(FLAGS))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param('Status { code: PermissionDenied, message: "hunter2"', "refuses this client", id="key"),
        pytest.param("InvalidCertificate(ExpiredContext {", "a certificate that has expired", id="expired"),
        pytest.param("InvalidCertificate(UnknownIssuer)", "Name the root", id="root"),
        pytest.param("Transport, NoCertificatesPresented)", "are no certificate and its key", id="no PEM"),
        pytest.param('hyper::Error(Canceled, "connection closed")', "hangs up", id="closed"),
        pytest.param("hunter2", "can't be reached", id="unknown"),
    ],
)
def test_words_of_the_sdk_are_translated_and_not_passed_on(words: str, said: str) -> None:
    """What the acceptance tests do not meet with a server of their own."""
    sentence = str(_translated(words, EngineOptions()))
    assert said in sentence
    assert "hunter2" not in sentence


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(EngineOptions(), "It may want TLS", id="plain"),
        pytest.param(EngineOptions(tls=True), "It may want a certificate", id="TLS"),
        pytest.param(EngineOptions(api_key=Secret(b"k")), "It may want a certificate", id="key"),
        pytest.param(EngineOptions(tls_cert=Path("c")), "It may not take", id="mutual"),
    ],
)
def test_server_that_hangs_up_is_told_with_what_it_may_want(options: EngineOptions, said: str) -> None:
    """It does not say so itself."""
    assert said in str(_translated("transport error", options))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        pytest.param(RPCStatusCode.UNAUTHENTICATED, "refuses this client", id="key withdrawn"),
        pytest.param(RPCStatusCode.UNAVAILABLE, "can't be reached", id="gone"),
        pytest.param(RPCStatusCode.NOT_FOUND, "The job has ended meanwhile", id="job over"),
    ],
)
async def test_what_happens_between_two_questions_is_told(
    status: RPCStatusCode, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 'batchcancel status --follow' meets it, which asks for hours."""

    async def connected(_options: EngineOptions) -> None:
        """Be there at first."""

    monkeypatch.setattr(running, "connect", connected)
    with pytest.raises(EngineError, match=words) as caught:
        async with running.asking(EngineOptions()):
            raise RPCError("Bearer secret", status, b"")
    assert "secret" not in str(caught.value)
