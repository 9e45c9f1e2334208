"""Several measurements of one thing, and what they say. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """The median of some measurements, and how far they spread."""

    median: float
    least: float
    most: float

    def text(self, form: str = ",.0f") -> str:
        """Write it as ``9,512 (9,380-9,601)``; a single measurement without its spread."""
        middle = format(self.median, form)
        if self.least == self.most:
            return middle
        return f"{middle} ({format(self.least, form)}-{format(self.most, form)})"


def figure(measured: Sequence[float]) -> Figure:
    """Sum measurements up; there has to be one at least."""
    return Figure(median=median(measured), least=min(measured), most=max(measured))


def ratio(dividends: Sequence[float], divisors: Sequence[float]) -> Figure:
    """Divide round by round, so that what slowed a whole round down cancels out.

    Args:
        dividends: One measurement a round.
        divisors: As many, of the same rounds; none is 0.
    """
    return figure([above / below for above, below in zip(dividends, divisors, strict=True)])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table of plain text: the first column on the left, all others on the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() + "\n"
        for line in lines
    )
