"""Charts as SVG, drawn when the page is made: the only user of pygal, which the extra ``report`` installs.

Pygal lays charts out; its own styles and scripts are taken away, so that the page's style sheet
colours them, light and dark, and the page runs no script but its own. Each chart is drawn twice, for
wide and for narrow pages: an SVG that is only scaled would have letters that nobody can read.

Why pygal: it is kept (3.1.3 of June 2026), is pure Python, writes SVG without a browser or a display,
and weighs 1.8 MB with what it drags in, where matplotlib comes to 174 MB and Altair with vl-convert to
106 MB, measured as installed. It has no types, so it stays in this module.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, Final
from xml.etree import ElementTree as ET

import pygal
from msgspec import Struct

# Pygal registers a finder for plugins, which are not used here. It is of a kind that Python 3.11 warns of
# at every later import of what is not there.
sys.meta_path[:] = [one for one in sys.meta_path if type(one).__module__ != "pygal"]

_WIDTHS: Final = (1100, 380)
_LABELS: Final = (9, 4)
"""Marks on the axis of time, on wide and on narrow charts."""
_NOT_NEEDED: Final = frozenset({"defs", "desc", "script", "style", "title"})
_COMMENTS: Final = re.compile(r"<!--.*?-->", re.DOTALL)
_EMPTY_GROUPS: Final = frozenset({"plot overlay", "plot text-overlay", "plot tooltip-overlay"})


class Series(Struct, frozen=True, kw_only=True):
    """The values of one kind, one for each label of the chart."""

    name: str
    css: str
    """The class that the style sheet colours it by."""
    values: tuple[float, ...]


class Drawing(Struct, frozen=True, kw_only=True):
    """One chart, twice."""

    wide: str
    """An SVG element: safe to stand in the page, whatever its labels are."""
    narrow: str


def shares(labels: Sequence[str], series: Sequence[Series]) -> Drawing:
    """Draw one horizontal bar for each label, its parts side by side.

    Args:
        labels: What the bars are about; an empty one for a bar that needs no name.
        series: The parts, in percent: those of each bar come to 100.
    """
    return _draw(
        pygal.HorizontalStackedBar,
        34 * len(labels) + 30,
        list(reversed(labels)),
        series,
        reverse=True,
        range=(0, 100),
        y_labels=[0, 25, 50, 75, 100],
        value_formatter=lambda value: f"{value:.0f} %",
    )


def columns(labels: Sequence[str], series: Sequence[Series], *, height: int = 220, marks: bool) -> Drawing:
    """Draw upright bars, those of several series on top of each other.

    Args:
        labels: One for each bar.
        series: What is stacked.
        height: Of the chart, in its own units.
        marks: Whether only some labels are shown, as on an axis of time.
    """
    return _draw(pygal.StackedBar, height, labels, series, marks=marks, value_formatter=_count)


def lines(labels: Sequence[str], series: Sequence[Series], *, height: int = 240) -> Drawing:
    """Draw a line for each series over an axis of time."""
    return _draw(
        pygal.Line, height, labels, series, marks=True, value_formatter=_count, show_dots=False, range_from=0
    )


def _draw(
    kind: Any,  # noqa: ANN401 - a class of pygal, which has no types
    height: int,
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    marks: bool = False,
    reverse: bool = False,
    range_from: int | None = None,
    **options: Any,  # noqa: ANN401 - of pygal
) -> Drawing:
    drawn = []
    for width, most in zip(_WIDTHS, _LABELS, strict=True):
        chart = kind(
            css=[], js=[], no_prefix=True, disable_xml_declaration=True, show_legend=False,
            width=width, height=height, max_scale=6, print_values=False,
            truncate_label=-1, **({"margin": 4, "margin_right": 30} | options),
        )  # fmt: skip
        if range_from is not None:
            chart.range = (range_from, max([1, *(max(one.values, default=0) for one in series)]))
        chart.x_labels = list(labels)
        if marks:
            every = -(-len(labels) // most)
            chart.show_minor_x_labels = False
            chart.x_labels_major = [label for index, label in enumerate(labels) if index % every == 0]
        for one in series:
            chart.add(one.name, list(reversed(one.values) if reverse else one.values))
        root = ET.fromstring(chart.render())  # noqa: S314 - what pygal wrote itself
        drawn.append(_cleaned(root, [one.css for one in series], width=width))
    return Drawing(wide=drawn[0], narrow=drawn[1])


def _cleaned(root: ET.Element, css: Sequence[str], *, width: int) -> str:
    """Take from a chart what the page does not want, and name its series for the style sheet."""
    for parent in list(root.iter()):
        for child in list(parent):
            tag = child.tag.rpartition("}")[2]
            if tag in _NOT_NEEDED or child.get("class") in _EMPTY_GROUPS or (
                tag == "rect" and child.get("class") == "background"
            ):  # fmt: skip
                parent.remove(child)
    for element in root.iter():
        element.attrib.pop("style", None)
        for number, name in enumerate(css):
            if f"serie-{number}" in (element.get("class") or "").split():
                element.set("class", f"part {name}")
    root.attrib.pop("id", None)
    root.set("class", "chart")
    root.set("width", str(width))
    root.set("aria-hidden", "true")  # the figure has the text, and a table has the numbers
    root.set("focusable", "false")
    ET.register_namespace("", "http://www.w3.org/2000/svg")
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    return _COMMENTS.sub("", ET.tostring(root, encoding="unicode"))


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
