"""What the page is made of: numbers, tables and charts, each with what it says in words."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from msgspec import Struct

from batchcancel.report.charts import Drawing, Series


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


def numbers(caption: str, labels: Sequence[str], series: Sequence[Series]) -> Table:
    """Write what a chart draws as a table.

    Args:
        caption: Without a full stop.
        labels: One for each value.
        series: The chart's.
    """
    return Table(
        caption=f"{caption}.",
        header=("", *(one.name for one in series)),
        rows=tuple((label, *(f"{one.values[at]:,.0f}" for one in series)) for at, label in enumerate(labels)),
        right=frozenset(range(1, len(series) + 1)),
    )


def markup(drawing: Drawing) -> dict[str, Markup]:
    """Let a drawing stand in the page as it is."""
    # ElementTree has escaped every text of a chart.
    return {"wide": Markup(drawing.wide), "narrow": Markup(drawing.narrow)}  # noqa: S704
