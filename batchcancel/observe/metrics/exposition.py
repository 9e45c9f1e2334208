"""A run's metrics as Prometheus reads them, and back. The only user of prometheus-client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from batchcancel.observe.metrics.counts import Histogram
from batchcancel.observe.metrics.run import Ended, RunMetrics
from batchcancel.observe.metrics.table import METRICS, PREFIX, Kind, Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
NAME_LABEL: Final = "name"
"""What tells the jobs of one machine apart, whose files node_exporter puts into one answer."""

_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def render(run: RunMetrics) -> bytes:
    """Write a run's metrics in the text format, as they are now. Any thread may ask."""
    registry = CollectorRegistry()
    registry.register(_Collector(run))
    return generate_latest(registry)


def read_ended(text: str) -> Ended:
    """Read what a file that ``render`` wrote says of the runs that have ended.

    Raises:
        ValueError: It is no such text.
    """
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    exit_code = values.get(f"{PREFIX}last_run_exit_code")
    return Ended(
        last_exit_code=None if exit_code is None else int(exit_code),
        last_success_at=values.get(f"{PREFIX}last_success_timestamp_seconds"),
    )


class _Collector:
    """Gives a registry the metrics of one run; nothing is kept between two questions."""

    def __init__(self, run: RunMetrics) -> None:
        self._run = run

    def describe(self) -> list[_Family]:
        """Tell the registry no names, so that it does not ask for values before anyone wants them."""
        return []

    def collect(self) -> Iterator[_Family]:
        """Take every value."""
        name = self._run.name
        more = {} if name is None else {NAME_LABEL: name}
        for metric in METRICS:
            family = _family(metric, more, self._run)
            if family.samples:
                yield family


def _family(metric: Metric, more: dict[str, str], run: RunMetrics) -> _Family:
    family = _empty(metric, (*more, *metric.labels))
    for values, measured in metric.read(run):
        if isinstance(measured, Histogram):
            bounds = [*map(floatToGoString, measured.bounds), "+Inf"]
            cumulated = [*zip(bounds, measured.cumulated(), strict=True)]
            family.add_metric((*more.values(), *values), cumulated, measured.sum)
        else:
            family.add_metric((*more.values(), *values), measured)
    return cast("_Family", family)


def _empty(metric: Metric, labels: tuple[str, ...]) -> Any:  # noqa: ANN401 - each family takes other values
    match metric.kind:
        case Kind.COUNTER:
            return CounterMetricFamily(metric.name, metric.help, labels=labels)
        case Kind.GAUGE:
            return GaugeMetricFamily(metric.name, metric.help, labels=labels)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(metric.name, metric.help, labels=labels)
