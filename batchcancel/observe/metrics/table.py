"""Every metric: its name, type, labels, meaning, and where its value comes from.

Names and units follow the Prometheus convention. Whatever can be counted is there from the start, at
zero, so that rates and alerts work from the first event on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from math import inf
from typing import Final

from msgspec import Struct

from batchcancel.model import REASONS, PauseCause, Vitals
from batchcancel.observe.metrics.counts import KINDS, Histogram
from batchcancel.observe.metrics.run import RunMetrics

PREFIX: Final = "batchcancel_"
_STATUSES: Final = (200, 400, 401, 403, 404, 407, 408, 409, 422, 429, 500, 502, 503, 504)
STATUS_LABELS: Final = (*map(str, _STATUSES), "other", "none")
"""What ``status`` may be, however many statuses a service makes up; ``none`` is no reply."""

Samples = Iterable[tuple[tuple[str, ...], float | Histogram]]
"""Values of the labels, and what is measured under them."""


class Kind(StrEnum):
    """How a metric is to be read."""

    COUNTER = "counter"
    """Rises from 0; a new run begins at 0 again."""
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(Struct, frozen=True, kw_only=True):
    """One metric."""

    name: str
    """As it is written, with its unit and ``_total``."""
    kind: Kind
    labels: tuple[str, ...] = ()
    help: str
    read: Callable[[RunMetrics], Samples]
    """Takes its values from a run; none where nothing is known."""


def _counter(name: str, meaning: str, read: Callable[[RunMetrics], Samples], *labels: str) -> Metric:
    return Metric(name=PREFIX + name, kind=Kind.COUNTER, labels=labels, help=meaning, read=read)


def _gauge(name: str, meaning: str, read: Callable[[RunMetrics], Samples], *labels: str) -> Metric:
    return Metric(name=PREFIX + name, kind=Kind.GAUGE, labels=labels, help=meaning, read=read)


def _histogram(name: str, meaning: str, read: Callable[[RunMetrics], Samples], *labels: str) -> Metric:
    return Metric(name=PREFIX + name, kind=Kind.HISTOGRAM, labels=labels, help=meaning, read=read)


def _one(value: float | Histogram | None) -> Samples:
    """Return a value without labels; nothing for None."""
    return () if value is None else (((), value),)


def _of_vitals(run: RunMetrics, read: Callable[[Vitals], float]) -> Samples:
    return () if run.vitals is None else _one(read(run.vitals))


def _requests(run: RunMetrics) -> Samples:
    for kind, requests in run.counts.requests.items():
        counts = dict.fromkeys(STATUS_LABELS, 0)
        for status, count in requests.statuses.copy().items():
            label = "none" if status is None else str(status)
            counts[label if label in counts else "other"] += count
        for label, count in counts.items():
            yield (kind.value, label), count


def _held(run: RunMetrics) -> Samples:
    held_by = None if run.vitals is None else run.vitals.held_by
    return [((cause.value,), float(run.is_active and cause is held_by)) for cause in PauseCause]


def _rate(rate: float | None) -> float:
    return inf if rate is None else rate


METRICS: Final = (
    _counter(
        "invoices_settled_total",
        "Rows that this run wrote into the ledger.",
        lambda run: [((one.outcome.value, one.value), run.counts.settled[one]) for one in REASONS],
        "outcome",
        "reason",
    ),
    _counter(
        "attempts_total",
        "Cancelations sent for invoices that have a row; refused ones signed afresh and 429s left out.",
        lambda run: _one(run.counts.attempts),
    ),
    _counter(
        "lookups_total",
        "Look-ups sent for invoices that have a row, counted likewise.",
        lambda run: _one(run.counts.lookups),
    ),
    _counter(
        "canceled_amount_total",
        "Total amount of the invoices that this run canceled, in units of the currency.",
        lambda run: [((code,), float(total)) for code, total in run.counts.amounts.copy().items()],
        "currency",
    ),
    _counter(
        "canceled_without_amount_total",
        "Invoices that this run canceled and that are in no canceled_amount.",
        lambda run: _one(run.counts.without_amount),
    ),
    _counter(
        "requests_total",
        "Requests that came to their end, by the status of the reply.",
        _requests,
        "kind",
        "status",
    ),
    _histogram(
        "request_duration_seconds",
        "Time from before a request left to the end of its reply, or to its failure.",
        lambda run: [((kind.value,), run.counts.requests[kind].latency_s) for kind in KINDS],
        "kind",
    ),
    _gauge(
        "requests_in_flight",
        "Requests of every kind that have left and not come back.",
        lambda run: _of_vitals(run, lambda vitals: vitals.in_flight),
    ),
    _gauge(
        "allowed_requests_per_second",
        "Requests a second that may leave now; +Inf for no limit.",
        lambda run: _of_vitals(run, lambda vitals: _rate(vitals.allowed_rate)),
    ),
    _gauge(
        "set_requests_per_second",
        "What --rate allows at most; +Inf for no limit.",
        lambda run: _of_vitals(run, lambda vitals: _rate(vitals.set_rate)),
    ),
    _gauge(
        "rows_left",
        "Invoices to settle that have no row of this run yet.",
        lambda run: _of_vitals(run, lambda vitals: vitals.rows_left),
    ),
    _gauge("held", "Whether nothing leaves at the moment, by the cause (1 or 0).", _held, "cause"),
    _counter(
        "pauses_total",
        "Pauses for everyone that have begun.",
        lambda run: [((cause.value,), run.counts.pauses[cause]) for cause in PauseCause],
        "cause",
    ),
    _counter(
        "pause_seconds_total",
        "How long the pauses lasted that are over; those of several merchants are added up.",
        lambda run: [((cause.value,), run.counts.pause_s[cause]) for cause in PauseCause],
        "cause",
    ),
    _histogram(
        "ledger_group_rows",
        "Results that one write put on disk.",
        lambda run: _one(run.counts.group_rows),
    ),
    _histogram(
        "ledger_sync_duration_seconds",
        "Time that one write and its sync took.",
        lambda run: _one(run.counts.sync_s),
    ),
    _counter(
        "ledger_written_bytes_total",
        "Bytes of rows that are on disk.",
        lambda run: _one(run.counts.written_bytes),
    ),
    _gauge("run_active", "Whether the run goes on (1) or has ended (0).", lambda run: _one(run.is_active)),
    _gauge(
        "run_start_timestamp_seconds",
        "When the run began, Unix time.",
        lambda run: _one(run.started_at),
    ),
    _gauge(
        "run_duration_seconds",
        "How long the run has lasted; with its start this is when the metrics were taken.",
        lambda run: _one(run.duration_s),
    ),
    _gauge(
        "last_run_exit_code",
        "Exit code of the latest run that ended.",
        lambda run: _one(run.ended.last_exit_code),
    ),
    _gauge(
        "last_success_timestamp_seconds",
        "When a run last ended with exit code 0, Unix time.",
        lambda run: _one(run.ended.last_success_at),
    ),
    _gauge("run_info", "The environment that is called; always 1.", lambda run: [((run.env,), 1)], "env"),
    _gauge(
        "build_info",
        "Versions of batchcancel and Python; always 1.",
        lambda run: [((run.version, run.python), 1)],
        "version",
        "python",
    ),
)
