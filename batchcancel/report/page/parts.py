"""What stands on the page: its texts, tables and charts, made from figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from markupsafe import Markup
from msgspec import Struct

from batchcancel.model import Reason
from batchcancel.report.activity import QUIET_S, Latencies, RunActivity
from batchcancel.report.charts import Drawing, Series, columns, lines, shares
from batchcancel.report.figures import Ending, Figures, Money, Run
from batchcancel.report.sample import TableData
from batchcancel.report.summary import count_invoices, count_merchants, mask
from batchcancel.report.text import show_sum, without_amount
from batchcancel.report.words import printable, show_duration, show_time

NUMBER_COLUMNS: Final = frozenset({"Amount", "Balance", "Requests", "Latency ms"})
"""Columns of the table of invoices that are set to the right."""
_RUNS_SHOWN: Final = 200
_CURRENCIES_SHOWN: Final = 50
_CURRENCIES_DRAWN: Final = 8
_LEDGERS_NAMED: Final = 3
_ENVIRONMENTS: Final = frozenset({"sandbox", "test", "production"})
_MEANINGS: Final = {
    Reason.CANCELED: "canceled by these ledgers' runs",
    Reason.ALREADY_CANCELED: "canceled before, or nothing shows that these runs did it",
    Reason.PAID: "paid in full: it can't be canceled",
    Reason.PARTIAL: "paid in part: it can't be canceled",
    Reason.NOT_FOUND: "the service knows no such invoice",
    Reason.INVALID_ID: "no id that may be sent; nothing was sent",
    Reason.MISMATCH: "not what the manifest says of it; nothing was canceled",
    Reason.PENDING: "the payer is paying right now",
    Reason.REJECTED: "refused twice although its status is open",
    Reason.REFUSED: "this key may not cancel or read it",
    Reason.UNKNOWN_STATUS: "a status that is not documented",
    Reason.RATE_LIMITED: "refused for its rate until its time was up",
    Reason.NETWORK: "not reached",
    Reason.SERVER_ERROR: "not served",
    Reason.UNKNOWN: "the service may have acted: the next run looks first",
}


class Table(Struct, frozen=True, kw_only=True):
    """A small table; the first cell of each row heads it."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()
    """Columns that are set to the right."""
    texts: frozenset[int] = frozenset()
    """Columns that may be broken into lines."""

    def css(self, column: int) -> str:
        """Name the class of a column's cells."""
        if column in self.right:
            return "number"
        return "text" if column in self.texts else "plain"


class Part(Struct, frozen=True):
    """One kind of thing in a chart: its name, and the class that colours it."""

    name: str
    css: str


class Chart(Struct, frozen=True, kw_only=True):
    """A chart, what it shows in words, and its numbers."""

    key: str
    title: str
    text: str
    """What a reader who does not see it has to know."""
    drawing: dict[str, Markup]
    legend: tuple[Part, ...] = ()
    table: Table | None = None


class Card(Struct, frozen=True, kw_only=True):
    """One number that is read first."""

    name: str
    count: str
    note: str
    css: str


def parts_of(figures: Figures, rows: TableData) -> dict[str, Any]:
    """Return everything that the template asks for, but what the page itself is made of."""
    first, has_any = figures.first_run, bool(figures.invoices)
    headline = _headline(figures)
    return {
        "title": f"batchcancel report: {headline}",
        "headline": headline,
        "env": printable(first.env, most=20) if first else "no environment",
        "env_css": first.env if first and first.env in _ENVIRONMENTS else "",
        "is_live": figures.is_live,
        "merchant": _merchant(figures),
        "ledgers": _ledgers(figures),
        "remarks": list(_remarks(figures)),
        "cards": _cards(figures) if has_any else (),
        "outcome_chart": _outcome_chart(figures) if has_any else None,
        "money_table": _money_table(figures) if figures.money else None,
        "money_notes": list(_money_notes(figures)),
        "money_chart": _money_chart(figures),
        "reasons_table": _reasons_table(figures) if has_any else None,
        **_course(figures),
        "runs_table": _runs_table(figures.runs) if figures.runs else None,
        "run_notes": list(_run_notes(figures.runs)),
        "rows_total": rows.all_rows,
        "rows_text": _rows_text(rows),
    }


# --- the head -------------------------------------------------------------------------------------


def _headline(figures: Figures) -> str:
    if figures.first_run is None:
        return "No run has begun"
    if not figures.invoices:
        return "No invoice has an answer yet"
    if figures.open_errors:
        return f"{count_invoices(figures.invoices)}, {figures.open_errors:,} still open"
    return f"{count_invoices(figures.invoices)}, all with a final answer"


def _merchant(figures: Figures) -> str:
    if figures.first_run is None:
        return "unknown"
    more = f" and {count_merchants(len(figures.merchants))} besides" if figures.merchants else ""
    return printable(mask(figures.first_run.merchant_id)) + more


def _ledgers(figures: Figures) -> str:
    names = [printable(one.path.name, most=80) for one in figures.ledgers[:_LEDGERS_NAMED]]
    more = len(figures.ledgers) - len(names)
    return ", ".join(names) + (f" and {more:,} more ledgers" if more else "")


def _remarks(figures: Figures) -> Iterator[str]:
    for ledger in figures.ledgers:
        name = printable(ledger.path.name, most=80)
        if ledger.torn_bytes:
            yield (
                f"The last write of {name} is unfinished, as a crash leaves it. The next run asks again what "
                "it was about."
            )
        elif ledger.is_empty:
            yield f"{name} is empty: no run has begun in it."


# --- outcomes and money ---------------------------------------------------------------------------


def _kinds(figures: Figures) -> list[tuple[Part, int, str]]:
    """Return what invoices can have become, their numbers, and a note."""
    reasons = figures.reasons
    return [
        (Part("canceled", "canceled"), reasons[Reason.CANCELED], "by these runs"),
        (
            Part("canceled before", "before"),
            reasons[Reason.ALREADY_CANCELED],
            "not shown to be ours",
        ),
        (Part("already paid", "paid"), reasons[Reason.PAID], "left as they are"),
        (Part("partially paid", "partial"), reasons[Reason.PARTIAL], "left as they are"),
        (Part("final errors", "final"), figures.final_errors, "for a person to look at"),
        (Part("open errors", "open"), figures.open_errors, "the next run asks again"),
    ]


def _cards(figures: Figures) -> tuple[Card, ...]:
    return tuple(
        Card(name=part.name, count=f"{count:,}", note=note, css=part.css)
        for part, count, note in _kinds(figures)
    )


def _outcome_chart(figures: Figures) -> Chart:
    kinds = [(part, count) for part, count, _ in _kinds(figures) if count]
    percent = [100 * count / figures.invoices for _, count in kinds]
    series = [
        Series(name=part.name, css=part.css, values=(share,))
        for (part, _), share in zip(kinds, percent, strict=True)
    ]
    said = ", ".join(f"{part.name} {_share(one)}" for (part, _), one in zip(kinds, percent, strict=True))
    return Chart(
        key="outcome-chart",
        title="Share of the invoices.",
        text=f"{said}.",
        drawing=_markup(shares([""], series)),
        legend=tuple(part for part, _ in kinds),
    )


def _share(percent: float) -> str:
    """Write a share so that a small one is not taken for none, nor a large one for all."""
    if percent < 0.1:
        return "under 0.1\u00a0%"
    if 99.9 < percent < 100:
        return "over 99.9\u00a0%"
    return f"{percent:.1f}\u00a0%"


def _money_table(figures: Figures) -> Table:
    shown = sorted(figures.money.items())[:_CURRENCIES_SHOWN]
    return Table(
        caption="Sums of the invoices' total amounts, as the service said them.",
        header=("Currency", *(kind.capitalize() for kind in Money)),
        rows=tuple(
            (printable(currency, most=12) or "(none)", *(_sum(sums[kind]) for kind in Money))
            for currency, sums in shown
        ),
        right=frozenset(range(1, len(Money) + 1)),
    )


def _sum(total: Decimal) -> str:
    return show_sum(total) if total else "\u2013"


def _money_notes(figures: Figures) -> Iterator[str]:
    if (more := len(figures.money) - _CURRENCIES_SHOWN) > 0:
        yield f"And {more:,} more currencies."
    yield from without_amount(figures)


def _money_chart(figures: Figures) -> Chart | None:
    """Draw each currency's money as shares: sums of different currencies have no common scale."""
    kinds = (
        (Money.CANCELED, "canceled"),
        (Money.CANCELED_BEFORE, "before"),
        (Money.ALREADY_PAID, "paid"),
        (Money.PARTIALLY_PAID, "partial"),
        (Money.OPEN, "open"),
    )
    totals = {
        currency: sum((sums[kind] for kind, _ in kinds), Decimal(0))
        for currency, sums in sorted(figures.money.items())
        if all(total >= 0 for total in sums.values())
    }
    drawn = [currency for currency, total in totals.items() if total > 0][:_CURRENCIES_DRAWN]
    if not drawn:
        return None
    series = [
        Series(
            name=kind,
            css=css,
            values=tuple(float(100 * figures.money[one][kind] / totals[one]) for one in drawn),
        )
        for kind, css in kinds
    ]
    said = "; ".join(
        f"{printable(one, most=12)}: "
        + ", ".join(f"{part.name} {_share(part.values[at])}" for part in series if part.values[at])
        for at, one in enumerate(drawn)
    )
    return Chart(
        key="money-chart",
        title="Share of each currency's money.",
        text=f"{said}.",
        drawing=_markup(shares([printable(one, most=6) for one in drawn], series)),
        legend=tuple(Part(one.name, one.css) for one in series if any(one.values)),
    )


def _reasons_table(figures: Figures) -> Table:
    return Table(
        caption="Why, how often, and the first invoices of each.",
        header=("Reason", "Outcome", "Invoices", "Share", "Meaning", "Asked again", "For example"),
        rows=tuple(
            (
                reason.replace("_", " "),
                reason.outcome.replace("_", " "),
                f"{count:,}",
                _share(100 * count / figures.invoices),
                _MEANINGS[reason],
                "no" if reason.is_final else "yes",
                ", ".join(_example(one.invoice_id, one.merchant_id) for one in figures.examples[reason]),
            )
            for reason, count in figures.reasons.most_common()
        ),
        right=frozenset({2, 3}),
        texts=frozenset({4, 6}),
    )


def _example(invoice_id: str, merchant_id: str | None) -> str:
    shown = printable(invoice_id, most=64) or "(empty)"
    return shown if merchant_id is None else f"{shown} ({printable(merchant_id, most=40)})"


# --- over time ------------------------------------------------------------------------------------


def _course(figures: Figures) -> dict[str, Any]:
    """Return the charts of the run with most rows; another run's course may lie months away."""
    latency = [_latency_chart(figures.latencies)] if figures.latencies.count else []
    if figures.largest is None or not figures.largest[1].timeline.bins:
        return {"course_charts": latency, "course_text": "", "quiet_table": None}
    run, activity = figures.largest
    began = show_time(run.record.started_at)
    which = "The run" if len(figures.runs) == 1 else f"The largest of {len(figures.runs):,} runs"
    charts = [_requests_chart(activity), _repeats_chart(activity)]
    if activity.quiet_count:
        charts.append(_quiet_chart(activity))
    return {
        "course_charts": charts + latency,
        "course_text": (
            f"{which}, begun {began} UTC, in steps of {show_duration(activity.timeline.width_s)}. A request "
            "counts at the moment when its invoice was decided. Requests are cancelations and look-ups; "
            "those answered 429 or signed afresh are not among them."
        ),
        "quiet_table": _quiet_table(activity) if activity.quiet_count else None,
    }


def _labels(activity: RunActivity) -> list[str]:
    """Name each bin by the time at which it begins, with its day where there are several."""
    timeline = activity.timeline
    starts = [
        datetime.fromtimestamp(timeline.start_s + index * timeline.width_s, UTC)
        for index in range(len(timeline.bins))
    ]
    if starts[0].date() != starts[-1].date():
        return [f"{one:%d %b %H:%M}" for one in starts]
    if timeline.width_s < 1:
        return [f"{one:%H:%M:%S}.{one.microsecond // 100_000}" for one in starts]
    return [f"{one:%H:%M:%S}" if timeline.width_s < 60 else f"{one:%H:%M}" for one in starts]


def _series(activity: RunActivity, *kinds: tuple[str, str, str]) -> list[Series]:
    """Return series by name, class, and attribute of the bins."""
    return [
        Series(
            name=name,
            css=css,
            values=tuple(round(float(getattr(one, field)), 1) for one in activity.timeline.bins),
        )
        for name, css, field in kinds
    ]


def _requests_chart(activity: RunActivity) -> Chart:
    labels = _labels(activity)
    posts, lookups, settled = _series(
        activity, ("", "", "posts"), ("", "", "lookups"), ("settled", "settled", "settled")
    )
    totals = tuple(one + other for one, other in zip(posts.values, lookups.values, strict=True))
    requests = Series(name="requests", css="requests", values=totals)
    return Chart(
        key="requests-chart",
        title="Requests, and invoices settled.",
        text=f"{sum(totals):,.0f} requests and {sum(settled.values):,.0f} settled invoices; at most "
        f"{max(totals):,.0f} requests in one step.",
        drawing=_markup(lines(_spaced(labels), [_closed(requests), _closed(settled)])),
        legend=(Part("requests", "requests"), Part("settled invoices", "settled")),
        table=_numbers("Requests and settled invoices over time", labels, [requests, settled]),
    )


def _spaced(labels: list[str]) -> list[str]:
    """Give a line that would be a single point a second one."""
    return labels if len(labels) > 1 else [*labels, ""]


def _closed(series: Series) -> Series:
    if len(series.values) > 1:
        return series
    return Series(name=series.name, css=series.css, values=series.values * 2)


def _repeats_chart(activity: RunActivity) -> Chart:
    labels = _labels(activity)
    series = _series(
        activity, ("cancelations sent again", "repeats", "repeats"), ("look-ups", "lookups", "lookups")
    )
    repeats, lookups = (sum(one.values) for one in series)
    return Chart(
        key="repeats-chart",
        title="Retries and look-ups.",
        text=f"{repeats:,.0f} cancelations were sent again and {lookups:,.0f} look-ups were sent.",
        drawing=_markup(columns(labels, series, height=160, marks=True)),
        legend=tuple(Part(one.name, one.css) for one in series),
        table=_numbers("Retries and look-ups over time", labels, series),
    )


def _quiet_chart(activity: RunActivity) -> Chart:
    labels = _labels(activity)
    series = _series(activity, ("seconds without an answer", "quiet", "quiet_s"))
    times = "Once" if activity.quiet_count == 1 else f"{activity.quiet_count:,} times"
    return Chart(
        key="quiet-chart",
        title="Pauses.",
        text=f"{times} no invoice was decided for {QUIET_S:.0f} s or longer, "
        f"{show_duration(sum(series[0].values))} in all. A pause for the service's rate, an outage and slow "
        "replies look alike here.",
        drawing=_markup(columns(labels, series, height=120, marks=True)),
        legend=(Part("seconds without a decided invoice", "quiet"),),
        table=_numbers("Seconds without a decided invoice over time", labels, series),
    )


def _quiet_table(activity: RunActivity) -> Table:
    longest = sorted(activity.quiet, reverse=True)
    return Table(
        caption="The longest stretches without a decided invoice.",
        header=("Began (UTC)", "Lasted"),
        rows=tuple(
            (f"{datetime.fromtimestamp(from_s, UTC):%Y-%m-%d %H:%M:%S}", show_duration(lasted_s))
            for lasted_s, from_s in longest
        ),
        right=frozenset({1}),
    )


def _latency_chart(latencies: Latencies) -> Chart:
    histogram = latencies.histogram()
    labels = [f"≤ {_milliseconds(edge)}" for edge, _ in histogram]
    series = Series(name="replies", css="latency", values=tuple(float(count) for _, count in histogram))
    middle, most, nearly_all = (_milliseconds(latencies.percentile_ms(one)) for one in (50, 95, 99))
    return Chart(
        key="latency-chart",
        title="How long the deciding replies took, in all runs.",
        text=f"50\u00a0% took at most {middle}, 95\u00a0% at most {most}, "
        f"99\u00a0% at most {nearly_all}; each may be 5\u00a0% too high.",
        drawing=_markup(columns(labels, [series], height=200, marks=len(labels) > 6)),
        table=_numbers("Replies by time", labels, [series]),
    )


def _milliseconds(value: float) -> str:
    return f"{value / 1000:,.3g} s" if value >= 1000 else f"{value:.3g} ms"


def _numbers(caption: str, labels: Sequence[str], series: Sequence[Series]) -> Table:
    return Table(
        caption=f"{caption}.",
        header=("", *(one.name for one in series)),
        rows=tuple((label, *(f"{one.values[at]:,.0f}" for one in series)) for at, label in enumerate(labels)),
        right=frozenset(range(1, len(series) + 1)),
    )


def _markup(drawing: Drawing) -> dict[str, Markup]:
    # ElementTree has escaped every text of a chart.
    return {"wide": Markup(drawing.wide), "narrow": Markup(drawing.narrow)}  # noqa: S704


# --- runs and rows --------------------------------------------------------------------------------


def _runs_table(runs: list[Run]) -> Table:
    return Table(
        caption="Every run, the oldest first.",
        header=(
            "Began (UTC)", "Ended", "Lasted", "Rows", "Errors", "Requests", "By", "Ref", "Manifest", "Ledger",
            "Version",
        ),
        rows=tuple(
            (
                show_time(run.record.started_at),
                run.ending.value,
                "" if run.lasted_s is None else show_duration(run.lasted_s),
                f"{run.rows:,}",
                f"{run.errors:,}",
                f"{run.posts + run.lookups:,}",
                printable(f"{run.record.operator}@{run.record.host}", most=80),
                printable(run.record.ref or ""),
                printable(", ".join(one.path for one in run.record.manifest)),
                printable(run.ledger.path.name, most=80),
                printable(run.record.version, most=20),
            )
            for run in runs[-_RUNS_SHOWN:]
        ),
        right=frozenset({3, 4, 5}),
        texts=frozenset({6, 7, 8, 9}),
    )  # fmt: skip


def _run_notes(runs: list[Run]) -> Iterator[str]:
    if (more := len(runs) - _RUNS_SHOWN) > 0:
        yield f"{more:,} earlier runs are not listed; their rows count all the same."
    for run in runs[-_RUNS_SHOWN:]:
        if run.ending is Ending.STOPPED and run.end is not None and run.end.why:
            yield f"{show_time(run.record.started_at)} stopped: {printable(run.end.why, most=500)}"
    if any(run.ending is Ending.NO_END for run in runs):
        yield "A run without an end was killed, or its end was lost; its rows count."


def _rows_text(rows: TableData) -> str:
    if rows.rows == rows.all_rows:
        return f"All {count_invoices(rows.rows)}." if rows.rows > 1 else "The one invoice."
    others, all_others = rows.rows - rows.errors, rows.all_rows - rows.all_errors
    errors = (
        f"all {rows.all_errors:,} errors"
        if rows.errors == rows.all_errors
        else f"a random sample of {rows.errors:,} of {rows.all_errors:,} errors"
    )
    return (
        f"{rows.rows:,} of {rows.all_rows:,} invoices, so that this page stays small: {errors}, and a random "
        f"sample of {others:,} of the {all_others:,} others. An export has them all."
    )
