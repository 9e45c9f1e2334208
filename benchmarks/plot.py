"""Curves over time as an SVG that reads well on light and dark pages. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH: Final = 860
_HEIGHT: Final = 210
"""Of one panel."""
_LEFT: Final = 72
_RIGHT: Final = 40
_TOP: Final = 46
_BOTTOM: Final = 34
_TICKS: Final = 4
_ROUND: Final = (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10)
_STYLE: Final = """\
text { font: 12px system-ui, sans-serif; fill: #333; }
.title { font-size: 15px; font-weight: 600; }
.grid { stroke: #ddd; stroke-width: 1; }
.curve { fill: none; stroke: #2563a8; stroke-width: 1.5; }
.paper { fill: #fff; }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd; } .grid { stroke: #444; } .curve { stroke: #7db4ee; } .paper { fill: #14171a; }
}"""


@dataclass(frozen=True, slots=True)
class Panel:
    """One curve, with the same times as the others."""

    title: str
    points: Sequence[tuple[float, float]]
    """Seconds and values, both from 0."""


def plot(title: str, panels: Sequence[Panel]) -> str:
    """Draw panels below each other; every scale begins at 0."""
    height = _TOP + _HEIGHT * len(panels)
    most_s = max(at_s for panel in panels for at_s, _ in panel.points)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
            f'aria-label="{escape(title, quote=True)}">'
        ),
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{height}"/>',
        f'<text class="title" x="{_LEFT}" y="26">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, top=_TOP + _HEIGHT * number, most_s=most_s)
    return "\n".join([*parts, "</svg>", ""])


def round_up(value: float) -> float:
    """Return the least number that is easily divided by four and not below a value above 0."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _ROUND if step * power >= value)


def _panel(panel: Panel, *, top: float, most_s: float) -> list[str]:
    upper, lower = top + 22, top + _HEIGHT - _BOTTOM
    most = round_up(max(value for _, value in panel.points))
    width = _WIDTH - _LEFT - _RIGHT

    def x(at_s: float) -> float:
        return _LEFT + at_s / most_s * width

    def y(value: float) -> float:
        return lower - value / most * (lower - upper)

    parts = [f'<text x="{_LEFT}" y="{top + 12}">{escape(panel.title)}</text>']
    for tick in range(_TICKS + 1):
        value = most * tick / _TICKS
        level = f"{y(value):.1f}"
        parts += [
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{level}" y2="{level}"/>',
            f'<text x="{_LEFT - 8}" y="{level}" dy="4" text-anchor="end">{value:,.6g}</text>',
        ]
    tick_s = round_up(most_s / (_TICKS + 1))
    parts += [
        f'<text x="{x(at_s):.1f}" y="{lower + 18}" text-anchor="middle">{at_s:,.6g} s</text>'
        for at_s in (tick_s * number for number in range(math.floor(most_s / tick_s) + 1))
    ]
    points = " ".join(f"{x(at_s):.1f},{y(value):.1f}" for at_s, value in panel.points)
    return [*parts, f'<polyline class="curve" points="{points}"/>']
