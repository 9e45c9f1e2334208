"""What happened when, as the page shows it: the course of the run with most rows, and all latencies."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from batchcancel.report.activity import QUIET_S, Latencies, RunActivity
from batchcancel.report.charts import Series, columns, lines
from batchcancel.report.figures import Figures
from batchcancel.report.page.pieces import Chart, Part, Table, markup, numbers
from batchcancel.report.words import show_duration, show_time


def course(figures: Figures) -> dict[str, Any]:
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
        drawing=markup(lines(_spaced(labels), [_closed(requests), _closed(settled)])),
        legend=(Part("requests", "requests"), Part("settled invoices", "settled")),
        table=numbers("Requests and settled invoices over time", labels, [requests, settled]),
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
        drawing=markup(columns(labels, series, height=160, marks=True)),
        legend=tuple(Part(one.name, one.css) for one in series),
        table=numbers("Retries and look-ups over time", labels, series),
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
        drawing=markup(columns(labels, series, height=120, marks=True)),
        legend=(Part("seconds without a decided invoice", "quiet"),),
        table=numbers("Seconds without a decided invoice over time", labels, series),
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
        drawing=markup(columns(labels, [series], height=200, marks=len(labels) > 6)),
        table=numbers("Replies by time", labels, [series]),
    )


def _milliseconds(value: float) -> str:
    return f"{value / 1000:,.3g} s" if value >= 1000 else f"{value:.3g} ms"
