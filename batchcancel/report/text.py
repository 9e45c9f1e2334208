"""The summary of ledgers for a terminal: plain tables, ASCII whatever a ledger holds."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from textwrap import wrap
from typing import Final

from batchcancel.model import Outcome
from batchcancel.report.figures import Ending, Figures, Money, Run
from batchcancel.report.summary import count_invoices, count_merchants, mask
from batchcancel.report.words import aligned, ascii_only, show_duration, show_time

_RUNS_SHOWN: Final = 20
_CURRENCIES_SHOWN: Final = 30
_LINE_WIDTH: Final = 100


def report_text(figures: Figures) -> str:
    """Write what ledgers come to as plain text, ending with a newline."""
    return "\n".join(_lines(figures)) + "\n"


def _lines(figures: Figures) -> Iterator[str]:
    yield _headline(figures)
    yield from _remarks(figures)
    if figures.invoices:
        yield ""
        yield from aligned(list(_outcomes(figures)), right=frozenset({2}))
    if figures.money:
        yield ""
        yield from aligned(list(_money(figures)), right=frozenset(range(1, len(Money) + 1)))
        if more := len(figures.money) - _CURRENCIES_SHOWN:
            yield from [f"  and {more:,} more currencies"] * (more > 0)
        yield from (f"  {line}" for line in without_amount(figures))
    if figures.runs:
        yield ""
        yield from aligned(list(_runs(figures.runs[-_RUNS_SHOWN:])), right=frozenset({3, 4, 5}))
        if len(figures.runs) > _RUNS_SHOWN:
            yield f"  and {len(figures.runs) - _RUNS_SHOWN:,} earlier runs"
        yield from _whys(figures.runs[-_RUNS_SHOWN:])


def _headline(figures: Figures) -> str:
    if figures.first_run is None:
        if len(figures.ledgers) == 1:
            return "The ledger is empty: no run has begun in it."
        return "The ledgers are empty: no run has begun in them."
    runs = "1 run" if len(figures.runs) == 1 else f"{len(figures.runs):,} runs"
    whose = f"merchant {ascii_only(mask(figures.first_run.merchant_id))}"
    if figures.merchants:
        whose += f" and {count_merchants(len(figures.merchants))} besides"
    text = f"{count_invoices(figures.invoices)} in {runs}, {ascii_only(figures.first_run.env)}, {whose}."
    return f"Live: {text}" if figures.is_live else text


def _remarks(figures: Figures) -> Iterator[str]:
    for ledger in figures.ledgers:
        name = ascii_only(str(ledger.path))
        if ledger.is_live:
            yield f"  A run is writing to {name}: these are its figures as of now."
        elif ledger.torn_bytes:
            yield (
                f"  The last write of {name} is unfinished ({ledger.torn_bytes:,} bytes), as a crash leaves "
                "it; the next run asks again what it was about."
            )
        elif ledger.is_empty and len(figures.ledgers) > 1:
            yield f"  {name} is empty: no run has begun in it."


def _outcomes(figures: Figures) -> Iterator[tuple[str, str, str, str]]:
    yield "outcome", "reason", "invoices", ""
    for outcome in Outcome:
        for number, (reason, count) in enumerate(figures.of_outcome(outcome).items()):
            note = "final" if reason.is_final else "open: the next run asks again"
            yield (
                outcome if number == 0 else "",
                reason,
                f"{count:,}",
                note if outcome is Outcome.ERROR else "",
            )


def _money(figures: Figures) -> Iterator[list[str]]:
    yield ["currency", *Money]
    for currency, sums in sorted(figures.money.items())[:_CURRENCIES_SHOWN]:
        yield [ascii_only(currency)[:12], *(show_sum(sums[kind]) for kind in Money)]


def show_sum(total: Decimal) -> str:
    """Write a sum with its thousands grouped; a dash for nothing."""
    return f"{total:,f}" if total else "-"


def without_amount(figures: Figures) -> list[str]:
    """Say how many invoices are in no sum; nothing if all are."""
    words = {Outcome.ERROR: "with an error"}
    parts = [
        f"{figures.without_amount[one]:,} {words.get(one, one.replace('_', ' '))}"
        for one in Outcome
        if figures.without_amount[one]
    ]
    return [f"In no sum, since their amount is not known: {', '.join(parts)}."] if parts else []


def _runs(runs: list[Run]) -> Iterator[tuple[str, ...]]:
    yield "began (UTC)", "ended", "lasted", "rows", "errors", "requests", "by", "ref"
    for run in runs:
        yield (
            ascii_only(show_time(run.record.started_at)),
            run.ending,
            "" if run.lasted_s is None else show_duration(run.lasted_s),
            f"{run.rows:,}",
            f"{run.errors:,}",
            f"{run.posts + run.lookups:,}",
            ascii_only(f"{run.record.operator}@{run.record.host}")[:40],
            ascii_only(run.record.ref or "")[:40],
        )


def _whys(runs: list[Run]) -> Iterator[str]:
    for run in runs:
        if run.ending is Ending.STOPPED and run.end is not None and run.end.why:
            why = f"{ascii_only(show_time(run.record.started_at))} stopped: {ascii_only(run.end.why)}"
            yield from wrap(why, _LINE_WIDTH, initial_indent="  ", subsequent_indent="    ")
