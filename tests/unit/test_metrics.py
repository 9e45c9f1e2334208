"""Metrics: what is counted, how it is written, where it goes, and that the page about them is true."""

from __future__ import annotations

import asyncio
import http.client
import re
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchcancel.errors import SettingsError
from batchcancel.model import (
    REASONS,
    GroupCommitted,
    PauseCause,
    PauseEnded,
    PauseStarted,
    RateChanged,
    Reason,
    RequestFinished,
    RequestKind,
    ResolvedBy,
    Result,
    Vitals,
)
from batchcancel.observe.metrics import Endpoint, RunMetrics, TextFile, publishing, read_ended, render
from batchcancel.observe.metrics.counts import KINDS, MOST_CURRENCIES, Counts, Histogram
from batchcancel.observe.metrics.exposition import CONTENT_TYPE
from batchcancel.observe.metrics.table import METRICS, STATUS_LABELS

InVirtualTime = Callable[[Coroutine[Any, Any, None]], None]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

PAGE = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")
VITALS = Vitals(
    in_flight=7,
    allowed_rate=12.5,
    set_rate=20.0,
    held_by=PauseCause.OUTAGE,
    rows_left=41,
    is_stopping=False,
)


def run_metrics(name: str | None = None, now: float = 1000.0) -> RunMetrics:
    """Begin a run's metrics at a fixed time; its clock counts the questions."""
    ticks = iter(range(1000))
    return RunMetrics(env="test", name=name, now=lambda: now, clock=lambda: float(next(ticks)))


def samples(text: bytes) -> Samples:
    """Read metrics as Prometheus' own library does."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(run: RunMetrics, name: str, **labels: str) -> float | None:
    """Return one value of a run's metrics; None if it is not there."""
    return samples(render(run)).get((f"batchcancel_{name}", frozenset(labels.items())))


def request(
    status: int | None = 200, *, kind: RequestKind = RequestKind.CANCEL, latency_ms: float = 118.2
) -> RequestFinished:
    """Build a finished request."""
    failure = None if status else "TimeoutError"
    return RequestFinished(
        kind=kind,
        invoice_id="2675",
        http_status=status,
        failure=failure,
        latency_ms=latency_ms,
        correlation_id=None,
    )


def result(
    reason: Reason = Reason.CANCELED,
    *,
    amount: str | None = "10.10",
    currency: str | None = "USD",
    attempts: int = 1,
    lookups: int = 0,
) -> Result:
    """Build a row."""
    return Result(
        row=1,
        invoice_id="2675",
        outcome=reason.outcome,
        reason=reason,
        resolved_by=ResolvedBy.RESPONSE,
        amount=amount,
        currency=currency,
        attempts=attempts,
        lookups=lookups,
        at="2026-11-22T00:00:00.000Z",
    )


def group(*results: Result) -> GroupCommitted:
    """Build a group that is on disk."""
    return GroupCommitted(results=results, size_bytes=450 * len(results), sync_s=0.004)


# --- what is counted ------------------------------------------------------------------------------


def test_everything_that_can_be_counted_is_there_at_zero() -> None:
    """Otherwise rate() misses the first event, and an alert has nothing to compare with."""
    found = samples(render(run_metrics()))
    counted = {name: labels for name, labels in found if name.endswith("_total")}
    assert counted.keys() == {metric.name for metric in METRICS if metric.kind == "counter"} - {
        "batchcancel_canceled_amount_total"
    }
    assert {found[sample] for sample in found if sample[0].endswith(("_total", "_bucket", "_sum"))} == {0.0}
    for reason in REASONS:
        labels = frozenset({("outcome", reason.outcome.value), ("reason", reason.value)})
        assert ("batchcancel_invoices_settled_total", labels) in found
    for kind in KINDS:
        for status in STATUS_LABELS:
            labels = frozenset({("kind", kind.value), ("status", status)})
            assert ("batchcancel_requests_total", labels) in found


def test_rows_are_counted_by_outcome_and_reason_with_what_they_took() -> None:
    """Attempts and look-ups are those that the rows tell of."""
    run = run_metrics()
    run.counts(group(result(), result(Reason.PAID, lookups=2), result(attempts=3, lookups=1)))
    run.counts(group(result(Reason.INVALID_ID, attempts=0)))
    assert value(run, "invoices_settled_total", outcome="canceled", reason="canceled") == 2
    assert value(run, "invoices_settled_total", outcome="already_paid", reason="paid") == 1
    assert value(run, "invoices_settled_total", outcome="error", reason="invalid_id") == 1
    assert (value(run, "attempts_total"), value(run, "lookups_total")) == (5, 3)


def test_groups_and_their_syncs_are_counted() -> None:
    """Two writes: of three rows and of one."""
    run = run_metrics()
    run.counts(group(result(), result(), result()))
    run.counts(group(result()))
    assert value(run, "ledger_group_rows_bucket", le="1.0") == 1
    assert value(run, "ledger_group_rows_bucket", le="4.0") == 2
    assert value(run, "ledger_group_rows_sum") == 4
    assert value(run, "ledger_sync_duration_seconds_bucket", le="0.0025") == 0
    assert value(run, "ledger_sync_duration_seconds_bucket", le="0.005") == 2
    assert value(run, "ledger_sync_duration_seconds_sum") == pytest.approx(0.008)
    assert value(run, "ledger_written_bytes_total") == 1800


@pytest.mark.parametrize(
    ("status", "label"),
    [
        (200, "200"),
        (429, "429"),
        (503, "503"),
        (None, "none"),
        (418, "other"),
        (599, "other"),
        (999, "other"),
    ],
)
def test_requests_are_counted_by_kind_and_a_bounded_status(status: int | None, label: str) -> None:
    """A service that makes up statuses makes no time series."""
    run = run_metrics()
    run.counts(request(status, kind=RequestKind.LOOK_UP))
    assert value(run, "requests_total", kind="look_up", status=label) == 1
    assert value(run, "requests_total", kind="cancel", status=label) == 0
    counted = [name for name, _ in samples(render(run)) if name == "batchcancel_requests_total"]
    assert len(counted) == len(STATUS_LABELS) * len(KINDS)


def test_latency_is_in_seconds_and_by_kind() -> None:
    """The event has milliseconds."""
    run = run_metrics()
    for latency_ms in (5.0, 118.2, 30_001.0):
        run.counts(request(latency_ms=latency_ms))
    buckets = {
        le: value(run, "request_duration_seconds_bucket", kind="cancel", le=le)
        for le in ("0.005", "0.1", "0.25", "30.0", "60.0")
    }
    assert buckets == {"0.005": 1, "0.1": 1, "0.25": 2, "30.0": 2, "60.0": 3}
    assert value(run, "request_duration_seconds_count", kind="cancel") == 3
    assert value(run, "request_duration_seconds_sum", kind="cancel") == pytest.approx(30.1242)
    assert value(run, "request_duration_seconds_count", kind="probe") == 0


def test_pauses_are_counted_as_they_begin_and_their_seconds_as_they_end() -> None:
    """By cause."""
    run = run_metrics()
    run.counts(PauseStarted(cause=PauseCause.OUTAGE, wait_s=None))
    assert value(run, "pauses_total", cause="outage") == 1
    assert value(run, "pause_seconds_total", cause="outage") == 0
    run.counts(PauseEnded(cause=PauseCause.OUTAGE, lasted_s=61.5))
    assert value(run, "pause_seconds_total", cause="outage") == 61.5
    assert value(run, "pauses_total", cause="rate_limited") == 0


def test_events_that_only_the_log_tells_change_nothing() -> None:
    """Every event comes by."""
    run = run_metrics()
    before = {key: number for key, number in samples(render(run)).items() if "duration" not in key[0]}
    run.counts(RateChanged(rate=2.0))
    after = {key: number for key, number in samples(render(run)).items() if "duration" not in key[0]}
    assert before == after


def test_amounts_are_summed_by_currency_for_what_this_run_canceled() -> None:
    """As the summary does: what was canceled before, or is paid, is in no sum. Decimals add up exactly."""
    run = run_metrics()
    run.counts(group(*(result(amount="0.10") for _ in range(10)), result(amount="5", currency="EUR")))
    run.counts(group(result(Reason.ALREADY_CANCELED), result(Reason.PAID), result(amount=None)))
    assert value(run, "canceled_amount_total", currency="USD") == 1.0
    assert value(run, "canceled_amount_total", currency="EUR") == 5.0
    assert value(run, "canceled_without_amount_total") == 1


def test_currencies_are_bounded() -> None:
    """Any three letters may come from outside; each would be a time series for ever."""
    counts = Counts()
    codes = [f"{first}{second}X" for first in "ABCDEFGHIJ" for second in "ABCDEFGHIJ"]
    counts(group(*(result(currency=code) for code in codes)))
    assert list(counts.amounts) == codes[:MOST_CURRENCIES]
    assert counts.without_amount == len(codes) - MOST_CURRENCIES


def test_a_value_that_equals_a_bound_counts_as_below_it() -> None:
    """As ``le`` says."""
    histogram = Histogram((1.0, 2.0))
    for number in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.note(number)
    assert (histogram.cumulated(), histogram.sum) == ([2, 4, 5], 7.5)


# --- the run --------------------------------------------------------------------------------------


def test_vitals_are_missing_before_the_run_is_open() -> None:
    """A zero would say that no row is left."""
    run = run_metrics()
    names = ("requests_in_flight", "rows_left", "allowed_requests_per_second", "set_requests_per_second")
    assert [value(run, name) for name in names] == [None] * 4
    run.vitals = VITALS
    assert [value(run, name) for name in names] == [7, 41, 12.5, 20]


def test_no_limit_is_infinity() -> None:
    """So that a comparison with it says what is meant."""
    run = run_metrics()
    run.vitals = Vitals(
        in_flight=0, allowed_rate=None, set_rate=None, held_by=None, rows_left=0, is_stopping=False
    )
    assert value(run, "allowed_requests_per_second") == float("inf")
    assert b"batchcancel_set_requests_per_second +Inf\n" in render(run)
    assert {value(run, "held", cause=cause.value) for cause in PauseCause} == {0.0}


def test_what_holds_a_run_back_is_told_until_it_has_ended() -> None:
    """A run that gave up in an outage is not held any more."""
    run = run_metrics()
    run.vitals = VITALS
    assert value(run, "held", cause="outage") == 1
    assert value(run, "held", cause="rate_limited") == 0
    run.end(4)
    assert value(run, "held", cause="outage") == 0


@pytest.mark.parametrize(("exit_code", "success_at"), [(0, 1000.0), (3, 500.0), (7, 500.0), (143, 500.0)])
def test_only_exit_code_0_is_a_success(exit_code: int, success_at: float) -> None:
    """Any other end leaves the time of the last one as it was."""
    run = run_metrics()
    run.ended = read_ended("batchcancel_last_success_timestamp_seconds 500.0\n")
    assert value(run, "last_run_exit_code") is None
    assert value(run, "run_active") == 1
    run.end(exit_code)
    assert value(run, "last_run_exit_code") == exit_code
    assert value(run, "last_success_timestamp_seconds") == success_at
    assert value(run, "run_active") == 0


def test_the_duration_stands_still_at_the_end() -> None:
    """The last writing of the file may come later."""
    run = run_metrics()
    assert (run.duration_s, run.duration_s) == (1, 2)
    run.end(0)
    assert (run.duration_s, run.duration_s) == (3, 3)
    assert value(run, "run_start_timestamp_seconds") == 1000


def test_what_is_known_of_earlier_runs_is_read_back() -> None:
    """By the next run, from the file, with the label that the file's name gives."""
    run = run_metrics("nightly")
    run.end(0)
    earlier = read_ended(render(run).decode())
    assert (earlier.last_exit_code, earlier.last_success_at) == (0, 1000.0)
    assert read_ended("") == read_ended("# nothing\n")
    with pytest.raises(ValueError, match="could not convert"):
        read_ended("batchcancel_last_run_exit_code zero\n")


def test_a_name_is_a_label_of_every_sample() -> None:
    """node_exporter puts the files of all jobs into one answer and fails where two samples are the same."""
    run = run_metrics("nightly")
    run.vitals = VITALS
    run.end(0)
    assert {dict(labels).get("name") for _, labels in samples(render(run))} == {"nightly"}


# --- the page -------------------------------------------------------------------------------------


def test_the_page_tells_of_every_metric_as_it_is() -> None:
    """Name, type, labels and meaning, in the order in which they are written."""
    rows = re.findall(r"^\| `(batchcancel_\w+)` \| (\w+) \| ?(.*?) ?\| (.*) \|$", PAGE, re.MULTILINE)
    told = [
        (name, kind, tuple(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in rows
    ]
    assert told == [(one.name, one.kind.value, one.labels, one.help) for one in METRICS]


@pytest.mark.parametrize(("label", "words"), [("kind", KINDS), ("cause", PauseCause)])
def test_the_page_tells_of_every_value_of_a_label(label: str, words: Iterable[str]) -> None:
    """And of no other."""
    sentence = re.search(rf"`{label}` is (.*?)\.[ \n]", PAGE, re.DOTALL)
    assert sentence is not None
    assert set(re.findall(r"`(\w+)`", sentence[1])) == set(words)


def test_what_is_written_is_what_the_table_says() -> None:
    """Every metric appears in a run that has seen everything, with just these labels, and no other does."""
    run = run_metrics()
    run.vitals = VITALS
    run.counts(group(result()))
    run.end(0)
    written: dict[str, tuple[str, str, set[str]]] = {}
    for family in text_string_to_metric_families(render(run).decode()):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        written[name] = (family.type, family.documentation, labels)
    assert written == {one.name: (one.kind.value, one.help, set(one.labels)) for one in METRICS}


def test_names_follow_the_convention() -> None:
    """Base units, counters end in _total, nothing else does."""
    for metric in METRICS:
        assert re.fullmatch(r"batchcancel_[a-z]+(_[a-z]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert not metric.name.endswith(("_ms", "_milliseconds", "_count", "_sum", "_bucket")), metric.name
        assert metric.help.endswith("."), metric.name


# --- the file -------------------------------------------------------------------------------------


def test_a_file_is_replaced_as_a_whole_and_readable_by_others(tmp_path: Path) -> None:
    """Whatever the umask; nothing is left beside it."""
    file = TextFile(tmp_path / "nightly.prom")
    file.begin(b"a 1\n")
    first = (tmp_path / "nightly.prom").stat()
    file.write(b"a 2\n")
    second = (tmp_path / "nightly.prom").stat()
    assert first.st_ino != second.st_ino
    assert stat.S_IMODE(second.st_mode) == 0o644
    assert (tmp_path / "nightly.prom").read_text().splitlines()[1:] == ["a 2"]
    assert [path.name for path in tmp_path.iterdir()] == ["nightly.prom"]
    assert TextFile(tmp_path / "nightly.prom").earlier.endswith("a 2\n")


def test_an_empty_file_is_taken_over(tmp_path: Path) -> None:
    """A power cut may leave one, and so does whoever makes it for another user to write."""
    (tmp_path / "nightly.prom").touch()
    assert TextFile(tmp_path / "nightly.prom").earlier == ""


@pytest.mark.parametrize("what", ["text", "other metrics", "link", "folder", "pipe"])
def test_what_is_not_ours_is_left_as_it_is(what: str, tmp_path: Path) -> None:
    """A mistyped name must not cost a file."""
    path, other = tmp_path / "nightly.prom", tmp_path / "other"
    match what:
        case "text":
            path.write_text("invoice_id\n2675\n", encoding="utf-8")
        case "other metrics":
            path.write_text("# HELP x Something.\nx 1\n", encoding="utf-8")
        case "link":
            TextFile(other).begin(b"")
            path.symlink_to(other)
        case "folder":
            path.mkdir()
        case _:
            import os  # noqa: PLC0415 - for this case alone

            os.mkfifo(path)
    with pytest.raises(SettingsError, match=r"is no file of metrics|is no plain file"):
        TextFile(path)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    """Before anything is sent."""
    file = TextFile(tmp_path / "gone" / "nightly.prom")
    with pytest.raises(SettingsError, match=r"nightly.prom can't be written: No such file or directory\."):
        file.begin(b"")


def test_a_write_that_fails_leaves_the_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk."""
    file = TextFile(tmp_path / "nightly.prom")
    file.begin(b"a 1\n")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        file.write(b"a 2\n")
    assert (tmp_path / "nightly.prom").read_bytes().endswith(b"a 1\n")
    assert [path.name for path in tmp_path.iterdir()] == ["nightly.prom"]


class _Disk(TextFile):
    """Remembers when it was written, and fails when told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.written: list[bytes] = []
        self.fails = False

    def write(self, metrics: bytes) -> None:
        self.written.append(metrics)
        if self.fails:
            raise OSError(28, "No space left on device")


async def _direct(call: Callable[..., Any], *arguments: Any) -> Any:
    """Stand in for a thread, which has no place in virtual time."""
    return call(*arguments)


def _unexpected(exc: OSError) -> None:
    pytest.fail(str(exc))


@pytest.fixture
def without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the file in the event loop."""
    monkeypatch.setattr("asyncio.to_thread", _direct)


def test_the_file_is_written_every_10_s_with_vitals_of_the_moment(
    in_virtual_time: InVirtualTime, tmp_path: Path, without_threads: None
) -> None:
    """And they are looked at once more when the run is over."""
    run, disk, asked = run_metrics(), _Disk(tmp_path / "m.prom"), []

    def vitals() -> Vitals:
        asked.append(asyncio.get_running_loop().time())
        return VITALS

    async def watch() -> None:
        async with publishing(run, vitals=vitals, file=disk, on_failure=_unexpected):
            await asyncio.sleep(25.5)

    in_virtual_time(watch())
    assert len(disk.written) == 2
    assert [round(at - asked[0], 1) for at in asked] == [*range(26), 25.5]
    assert run.vitals is VITALS


def test_a_file_that_can_t_be_written_any_more_is_said_once_and_tried_again(
    in_virtual_time: InVirtualTime, tmp_path: Path, without_threads: None
) -> None:
    """The run goes on, and the disk may have room again."""
    run, disk = run_metrics(), _Disk(tmp_path / "m.prom")
    disk.fails = True
    said: list[OSError] = []

    async def watch() -> None:
        async with publishing(run, vitals=lambda: VITALS, file=disk, on_failure=said.append):
            await asyncio.sleep(41)

    in_virtual_time(watch())
    assert (len(disk.written), len(said)) == (4, 1)


async def test_the_end_waits_for_a_write_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes last has to be the one who knows the exit code."""
    monkeypatch.setattr("batchcancel.observe.metrics._LOOK_EVERY_S", 0.001)
    disk = TextFile(tmp_path / "m.prom")
    events: list[str] = []

    def write(_metrics: bytes) -> None:
        events.append("begun")
        time.sleep(0.1)
        events.append("written")

    monkeypatch.setattr(disk, "write", write)
    async with publishing(run_metrics(), vitals=lambda: VITALS, file=disk, on_failure=_unexpected):
        while "begun" not in events:
            await asyncio.sleep(0.001)
    assert events == ["begun", "written"]


# --- the port -------------------------------------------------------------------------------------


@pytest.fixture(params=["127.0.0.1", "localhost", "::1"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    """Serve on a free port."""
    served = Endpoint(request.param, 0, lambda: b"a 1\n")
    yield served
    served.close()


def test_metrics_are_served_until_the_end(endpoint: Endpoint) -> None:
    """As text in the format that every Prometheus reads."""
    assert endpoint.url.startswith(("http://127.0.0.1:", "http://[::1]:"))
    with urllib.request.urlopen(endpoint.url) as reply:  # noqa: S310 - our own
        assert (reply.read(), reply.headers["Content-Type"]) == (b"a 1\n", CONTENT_TYPE)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(endpoint.url + "/x")  # noqa: S310 - likewise


def test_nothing_but_reading_is_served(endpoint: Endpoint) -> None:
    """There is nothing to change."""
    parts = urlsplit(endpoint.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 0, timeout=5)
    connection.request("POST", "/metrics", b"x")
    assert connection.getresponse().status == 501
    connection.close()


def test_a_client_that_hangs_up_is_no_matter(endpoint: Endpoint, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is written to standard error, which is the run's, and the next client is served."""
    import socket  # noqa: PLC0415 - for this test alone
    import struct  # noqa: PLC0415 - likewise

    parts = urlsplit(endpoint.url)
    for sent in (b"", b"GET /metr", b"GET /metrics HTTP/1.0\r\n\r\n"):
        client = socket.create_connection((parts.hostname or "", parts.port or 0))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(sent)
        client.close()  # with a reset
    with urllib.request.urlopen(endpoint.url) as reply:  # noqa: S310 - our own
        assert reply.status == 200
    assert capfd.readouterr().err == ""


TAKEN = r"can't be served at port \d+ of .*: Address already in use"


def test_a_port_that_is_taken_is_said(endpoint: Endpoint) -> None:
    """Before anything is sent."""
    parts = urlsplit(endpoint.url)
    with pytest.raises(
        SettingsError, match=rf"can't be served at port {parts.port} of .*: Address already in use"
    ):
        Endpoint(parts.hostname or "", parts.port or 0, lambda: b"")


def test_an_address_of_nobody_is_said() -> None:
    """An address that is not this machine's."""
    with pytest.raises(SettingsError, match=r"can't be served at port 0 of 192\.0\.2\.1: Cannot assign"):
        Endpoint("192.0.2.1", 0, lambda: b"")


@pytest.mark.parametrize("host", ["a..b", "ä..b", "a" * 70])
def test_a_name_that_can_be_nobody_s_is_said(host: str) -> None:
    """Python refuses some names as text, with an error of another kind."""
    with pytest.raises(
        SettingsError, match=rf"can't be served at port 0 of {re.escape(host)}: no name of a host"
    ):
        Endpoint(host, 0, lambda: b"")
