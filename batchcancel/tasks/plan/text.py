"""A plan's summary: tables for people, JSON for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from batchcancel.model import Outcome, RunState
from batchcancel.report import count_invoices, count_rows, mask
from batchcancel.report.text import show_sum
from batchcancel.report.words import aligned, ascii_only, show_duration
from batchcancel.tasks.plan.survey import Example, PlanSummary

_CURRENCIES_SHOWN: Final = 10
_WIDTH: Final = 100
_EXAMPLES_WIDTH: Final = 58
"""What leaves a line of the table within ``_WIDTH``."""


def plan_json(summary: PlanSummary, *, exit_code: int) -> bytes:
    """Write a summary as one JSON object.

    Keys: ``env host merchant_id state why rows cancelable statuses refused settled_earlier duplicates
    excluded open estimate_s duration_s out exit_code``. ``statuses`` has by status ``invoices``,
    ``open_amounts`` (decimal strings by currency) and ``without_amount``; ``refused`` has by reason the
    number of invoices that a run would not cancel.
    """
    tally = summary.tally
    document: dict[str, Any] = {
        "env": summary.env,
        "host": summary.host,
        "merchant_id": mask(summary.merchant_id),
        "state": summary.state,
        "why": summary.why,
        "rows": tally.rows,
        "cancelable": tally.cancelable,
        "statuses": {
            status: {
                "invoices": group.invoices,
                "open_amounts": {code: f"{total:f}" for code, total in sorted(group.open_amounts.items())},
                "without_amount": group.without_amount,
            }
            for status, group in summary.statuses.items()
        },
        "refused": tally.results,
        "settled_earlier": tally.settled_earlier,
        "duplicates": tally.duplicates,
        "excluded": tally.excluded,
        "open": tally.open,
        "estimate_s": None if summary.estimate_s is None else round(summary.estimate_s, 1),
        "duration_s": summary.duration_s,
        "out": summary.out,
        "exit_code": exit_code,
    }
    return msgspec.json.encode(document)


def plan_text(summary: PlanSummary) -> str:
    """Write a summary as plain text, ending with a newline."""
    if not summary.tally.rows:
        return "Nothing to do: the manifest has no rows.\n"
    return "\n".join(_lines(summary)) + "\n"


def _lines(summary: PlanSummary) -> Iterator[str]:
    yield from _headline(summary)
    if summary.statuses:
        yield ""
        yield from aligned(list(_statuses(summary)), right=frozenset({1, 3}))
    if summary.refused:
        yield ""
        yield from aligned(list(_refused(summary)), right=frozenset({1}))
    yield ""
    yield from (
        f"  {label:<15}  {count:,}"
        for label, count in (
            ("settled earlier", summary.tally.settled_earlier),
            ("duplicate rows", summary.tally.duplicates),
            ("excluded", summary.tally.excluded),
            ("not looked at", summary.tally.open),
            ("rows", summary.tally.rows),
        )
        if count
    )
    yield ""
    if summary.estimate_s is not None:
        over = " over these" if summary.tally.open else ""
        estimate = f"a run{over}  takes about {show_duration(summary.estimate_s)}: {summary.estimate_by}"
        yield from textwrap.wrap(estimate, _WIDTH, initial_indent="  ", subsequent_indent=" " * 9)
    if summary.out is not None:
        yield f"  plan   {ascii_only(summary.out)}; 'run --plan' takes what is paid or canceled from it"


def _headline(summary: PlanSummary) -> Iterator[str]:
    tally = summary.tally
    looked_at = tally.done
    yield f"A run would cancel {tally.cancelable:,} of {count_invoices(looked_at)}. Nothing was changed."
    match summary.state:
        case RunState.STOPPED:
            yield f"  Stopped: {ascii_only(summary.why or '')} {count_rows(tally.open)} not looked at."
        case RunState.INTERRUPTED:
            yield f"  Interrupted ({summary.why}): {count_rows(tally.open)} not looked at."
        case RunState.COMPLETE:
            pass


def _statuses(summary: PlanSummary) -> Iterator[tuple[str, ...]]:
    yield "status", "invoices", "currency", "open amount"
    for status, group in summary.statuses.items():
        first = (ascii_only(status)[:20], f"{group.invoices:,}")
        sums = sorted(group.open_amounts.items())
        for number, (currency, total) in enumerate(sums[:_CURRENCIES_SHOWN]):
            yield *(first if number == 0 else ("", "")), currency, show_sum(total)
        if not sums:
            yield *first, "", ""
        elif more := len(sums) - _CURRENCIES_SHOWN:
            yield from [("", "", f"and {more:,} more", "")] * (more > 0)


def _refused(summary: PlanSummary) -> Iterator[tuple[str, ...]]:
    yield "not canceled", "invoices", "", "such as"
    for reason, count in sorted(summary.tally.results.items(), key=lambda item: -item[1]):
        note = "an error" if reason.outcome is Outcome.ERROR else reason.outcome.replace("_", " ")
        yield reason, f"{count:,}", note, _examples(summary.refused.get(reason, ()))


def _examples(examples: Sequence[Example]) -> str:
    """Name as many as there is room for, and one at least."""
    shown = ""
    for text in map(_example, examples):
        if shown and len(shown) + len(text) + 2 > _EXAMPLES_WIDTH:
            break
        shown += f", {text}" if shown else text
    return shown


def _example(one: Example) -> str:
    place = f"row {one.row}" if one.file is None else f"{one.file} row {one.row}"
    return f"{ascii_only(one.invoice_id)[:30]} ({ascii_only(place)[-25:]})"
