"""Words about a run, to real servers on loopback: good ones, broken ones, slow ones and none at all."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from batchcancel.model import Reason, RunState, RunSummary, Tally
from batchcancel.observe.notices import end_notice, start_notice
from batchcancel.observe.notify import Notices, Receiver

if TYPE_CHECKING:
    from tests.conftest import StartReceiver

TOKEN: Final = "t0ken-of-the-check"
PAGE: Final = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")
SUMMARY: Final = RunSummary(
    run_id="2f0c5d0e-6d1f-4b57-9a55-0d2d6f6a9b11",
    env="production",
    host="api.visaacceptance.com",
    merchant_id="secret_merchant",
    ledger="/secret/ledger.jsonl",
    state=RunState.COMPLETE,
    why="a sentence about invoice 2675",
    tally=Tally(
        rows=5210,
        results={
            Reason.CANCELED: 5030,
            Reason.ALREADY_CANCELED: 1,
            Reason.PAID: 80,
            Reason.PARTIAL: 6,
            Reason.REFUSED: 1,
            Reason.NOT_FOUND: 2,
        },
        settled_earlier=88,
        duplicates=2,
    ),
    amounts_canceled={"EUR": "228237.17", "USD": "992475.08"},
    duration_s=256.4,
)
VERSION: Final = "0.1.0"
STARTED_AT: Final = "2026-11-26T02:00:01.204Z"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less: what is tested is what happens, not how long it takes."""
    monkeypatch.setattr("batchcancel.observe.notify._TIMEOUT_S", 0.3)
    monkeypatch.setattr("batchcancel.observe.notify._WAITS_S", (0.0, 0.01, 0.02))
    monkeypatch.setattr("batchcancel.observe.notify._GRACE_S", 0.2)


async def tell_end(
    *,
    ping: Receiver | None = None,
    notify: Receiver | None = None,
    is_failure: bool = False,
    in_a_hurry: bool = False,
) -> list[tuple[str, str]]:
    """Tell of an end, and return what is said to have failed."""
    said: list[tuple[str, str]] = []
    notices = Notices(ping=ping, notify=notify, on_failure=lambda host, why: said.append((host, why)))
    await notices.end({"event": "end"}, is_failure=is_failure, in_a_hurry=in_a_hurry)
    return said


@pytest.mark.parametrize(("is_failure", "path"), [(False, ""), (True, "/fail")])
async def test_a_health_check_hears_how_it_ended(
    start_receiver: StartReceiver, *, is_failure: bool, path: str
) -> None:
    """By a GET of its address, or of /fail below it."""
    server = start_receiver(200)
    assert await tell_end(ping=Receiver(url=server.url), is_failure=is_failure) == []
    assert [(heard.method, heard.body) for heard in server.heard] == [("GET", None)]
    assert server.paths == [path]


async def test_the_end_of_the_path_stands_before_a_query(start_receiver: StartReceiver) -> None:
    """Some checks are made by their first call: ?create=1. A slash at the end is not doubled."""
    server = start_receiver(200)
    for more in ("?create=1", "/?create=1"):
        await tell_end(ping=Receiver(url=server.url + more), is_failure=True)
    assert server.paths == ["/fail?create=1"] * 2


async def test_a_receiver_of_json_gets_a_post(start_receiver: StartReceiver) -> None:
    """Both are told, each in its way."""
    ping, notify = start_receiver(200), start_receiver(204)
    assert await tell_end(ping=Receiver(url=ping.url), notify=Receiver(url=notify.url)) == []
    (heard,) = notify.heard
    assert (heard.method, heard.body, heard.headers["Content-Type"]) == (
        "POST",
        {"event": "end"},
        "application/json",
    )
    assert len(ping.heard) == 1


@pytest.mark.parametrize(
    ("statuses", "tries", "why"),
    [
        pytest.param((500, 503, 200), 3, None, id="in the end"),
        pytest.param((429, 200), 2, None, id="throttled once"),
        pytest.param((500,), 3, "HTTP 500", id="never"),
        pytest.param((404,), 1, "HTTP 404", id="refused"),
        pytest.param((410,), 1, "HTTP 410", id="gone"),
    ],
)
async def test_a_broken_server_is_tried_three_times_and_a_refusal_is_final(
    start_receiver: StartReceiver, statuses: tuple[int, ...], tries: int, why: str | None
) -> None:
    """What failed is said once, with the host and nothing else of the address."""
    server = start_receiver(*statuses)
    assert await tell_end(ping=Receiver(url=server.url)) == ([] if why is None else [("127.0.0.1", why)])
    assert len(server.heard) == tries


async def test_a_redirect_is_not_followed(start_receiver: StartReceiver) -> None:
    """Where it leads was chosen by somebody else."""
    elsewhere = start_receiver(200)
    server = start_receiver(302, location=elsewhere.url)
    assert (
        await tell_end(ping=Receiver(url=server.url), notify=Receiver(url=server.url))
        == [("127.0.0.1", "HTTP 302")] * 2
    )
    assert elsewhere.heard == []


async def test_a_dead_host_is_said_without_its_address() -> None:
    """The text of the exception would hold it."""
    with socket.socket() as bound_only:
        bound_only.bind(("127.0.0.1", 0))
        port = bound_only.getsockname()[1]
        receiver = Receiver(url=f"http://127.0.0.1:{port}/{TOKEN}")
        said = await tell_end(ping=receiver, notify=receiver)
    assert said == [("127.0.0.1", "it can't be reached")] * 2


async def test_a_host_without_an_address_is_said() -> None:
    """A name that is nobody's."""
    said = await tell_end(ping=Receiver(url=f"https://nobody.invalid/{TOKEN}"))
    assert said == [("nobody.invalid", "its name has no address")]


async def test_a_server_that_can_t_be_trusted_is_said(start_receiver: StartReceiver) -> None:
    """Here one that knows no TLS."""
    server = start_receiver(200)
    said = await tell_end(notify=Receiver(url=server.url.replace("http:", "https:")))
    assert said == [("127.0.0.1", "TLS failed")]
    assert server.heard == []


def test_a_name_server_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the time of three tries, the end of the loop included, however long the system itself would wait."""
    is_over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [is_over.wait(10.0)][:0])
    began_at = time.monotonic()
    said = asyncio.run(tell_end(ping=Receiver(url=f"https://slow.example/{TOKEN}")))
    lasted_s = time.monotonic() - began_at
    is_over.set()
    assert said == [("slow.example", "no reply in time")]
    assert lasted_s < 3 * 0.3 + 1.0


async def test_a_slow_host_is_given_up(start_receiver: StartReceiver) -> None:
    """Three tries of the time-out each, not for ever."""
    server = start_receiver(200, delay_s=0.8)
    began_at = time.monotonic()
    assert await tell_end(ping=Receiver(url=server.url)) == [("127.0.0.1", "no reply in time")]
    assert time.monotonic() - began_at < 3 * 0.3 + 0.5


async def test_after_a_signal_there_is_one_try(start_receiver: StartReceiver) -> None:
    """Whoever sent it waits, and will kill in the end."""
    server = start_receiver(500)
    assert len(await tell_end(ping=Receiver(url=server.url), in_a_hurry=True)) == 1
    assert len(server.heard) == 1


async def test_the_start_is_told_beside_the_run(start_receiver: StartReceiver) -> None:
    """A slow check delays nothing."""
    server = start_receiver(200, delay_s=0.1)
    notices = Notices(ping=Receiver(url=server.url), notify=None, on_failure=_unexpected)
    began_at = time.monotonic()
    notices.begin({"event": "start"})
    assert time.monotonic() - began_at < 0.05
    await notices.finish_beginning()
    assert server.paths == ["/start"]


async def test_the_word_of_the_start_never_comes_after_that_of_the_end(start_receiver: StartReceiver) -> None:
    """The check would wait for an end that never comes: what is under way is waited for, then dropped."""
    server = start_receiver(500)
    said: list[str] = []
    notices = Notices(
        ping=Receiver(url=server.url), notify=None, on_failure=lambda _host, why: said.append(why)
    )
    notices.begin({})
    await asyncio.sleep(0)
    await notices.finish_beginning()
    await notices.end({}, is_failure=False, in_a_hurry=True)
    await asyncio.sleep(0.1)
    assert server.paths[-1] == ""
    assert set(server.paths[:-1]) == {"/start"}


async def test_a_start_that_hangs_holds_the_end_up_for_a_moment_only(start_receiver: StartReceiver) -> None:
    """A run of a second does not take six. That it was not told is said."""
    server = start_receiver(200, delay_s=1.0)
    said: list[str] = []
    ping = Receiver(url=server.url)
    notices = Notices(ping=ping, notify=None, on_failure=lambda _host, why: said.append(why))
    notices.begin({})
    began_at = time.monotonic()
    await notices.finish_beginning()
    assert time.monotonic() - began_at < 0.4
    assert said == ["the run was over first"]


def _unexpected(host: str, why: str) -> None:
    pytest.fail(f"{host}: {why}")


async def test_a_proxy_is_asked_where_there_is_one(start_receiver: StartReceiver) -> None:
    """And no other: the environment's own was looked at where settings are read."""
    proxy = start_receiver(200)
    receiver = Receiver(url="http://checks.example/x", proxy=proxy.url.partition("/ping")[0])
    assert await tell_end(ping=receiver) == []
    assert [heard.path for heard in proxy.heard] == ["http://checks.example/x"]


async def test_nothing_of_this_machine_s_user_goes_along(
    start_receiver: StartReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No password of ~/.netrc, and no proxy that settings did not choose."""
    (tmp_path / ".netrc").write_text("default login user password hunter2\n", encoding="utf-8")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    server = start_receiver(200)
    assert await tell_end(ping=Receiver(url=server.url)) == []
    assert "Authorization" not in server.heard[0].headers
    assert "Cookie" not in server.heard[0].headers


def test_a_receiver_shows_its_host_alone() -> None:
    """In whatever prints it."""
    receiver = Receiver(url=f"https://hc.example/{TOKEN}", proxy="http://u:p@proxy")
    assert repr(receiver) == "Receiver(hc.example)"


def test_notices_are_as_the_page_says() -> None:
    """The page's example is what a run like that one sends."""
    block = re.search(r"<!-- notices -->\n```json\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    start, end = (json.loads(text) for text in re.split(r"\n(?=\{)", block[1]))
    assert start == start_notice(
        version=VERSION, env=SUMMARY.env, host=SUMMARY.host, started_at=STARTED_AT, to_settle=5120
    )
    told = end_notice(
        version=VERSION,
        env=SUMMARY.env,
        host=SUMMARY.host,
        started_at=STARTED_AT,
        exit_code=3,
        summary=SUMMARY,
    )
    assert end == told
    assert list(end) == list(told)
    assert "secret" not in json.dumps(told)
    assert "2675" not in json.dumps(told)


def test_an_end_without_a_summary_has_the_same_keys() -> None:
    """A program need not ask which are there."""
    known = end_notice(
        version=VERSION, env="test", host="h", started_at=STARTED_AT, exit_code=0, summary=SUMMARY
    )
    unknown = end_notice(
        version=VERSION, env=None, host=None, started_at=STARTED_AT, exit_code=2, summary=None
    )
    assert list(unknown) == list(known)
    assert {key for key, value in unknown.items() if value is not None} == {
        "v",
        "event",
        "version",
        "started_at",
        "exit_code",
    }
