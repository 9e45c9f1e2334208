"""The closing summary of a run: a small table for people, JSON for programs."""

from __future__ import annotations

from decimal import Decimal
from itertools import groupby
from textwrap import wrap
from typing import Any, Final

import msgspec

from batchcancel.model import Outcome, Reason, RunState, RunSummary

_MERCHANTS_SHOWN: Final = 20
_LINE_WIDTH: Final = 100


def mask(merchant_id: str) -> str:
    """Show enough of a merchant id to recognise it, and not all of it."""
    return f"{merchant_id[:3]}***{merchant_id[-2:]}" if len(merchant_id) > 8 else "***"


def summary_json(summary: RunSummary, *, exit_code: int) -> bytes:
    """Write a summary as one JSON object.

    Keys: ``run_id env host merchant_id ledger state why rows outcomes reasons settled_earlier
    duplicates excluded open stopped_merchants amounts_canceled duration_s invoices_per_s exit_code``.
    Counts are of invoices; ``outcomes`` always has all four; amounts are decimal strings by currency.
    ``stopped_merchants`` lists ``merchant_id open why`` of those whose rows were stopped alone.
    """
    tally = summary.tally
    document: dict[str, Any] = {
        "run_id": summary.run_id,
        "env": summary.env,
        "host": summary.host,
        "merchant_id": mask(summary.merchant_id),
        "ledger": summary.ledger,
        "state": summary.state,
        "why": summary.why,
        "rows": tally.rows,
        "outcomes": {outcome: sum(_of_outcome(summary, outcome).values()) for outcome in Outcome},
        "reasons": tally.results,
        "settled_earlier": tally.settled_earlier,
        "duplicates": tally.duplicates,
        "excluded": tally.excluded,
        "open": tally.open,
        "stopped_merchants": summary.stopped_merchants,
        "amounts_canceled": summary.amounts_canceled,
        "duration_s": summary.duration_s,
        "invoices_per_s": _rate(summary),
        "exit_code": exit_code,
    }
    return msgspec.json.encode(document)


def summary_text(summary: RunSummary) -> str:
    """Write a summary as a table of plain text, ending with a newline."""
    if not summary.tally.rows:
        return "Nothing to do: the manifest has no rows.\n"
    lines = [_headline(summary), "", *_table(_count_rows(summary)), "", *_amounts(summary)]
    lines += _stopped_merchants(summary)
    lines += [f"  ledger   {summary.ledger}", f"  time     {_duration(summary)}"]
    return "\n".join(lines) + "\n"


def _headline(summary: RunSummary) -> str:
    tally = summary.tally
    done = sum(tally.results.values())
    match summary.state:
        case RunState.COMPLETE if not done and not tally.open and tally.excluded:
            return "Complete: nothing was asked, what is not excluded had its answer already."
        case RunState.COMPLETE if not done and not tally.open:
            return "Complete: every invoice had its answer already, nothing was asked."
        case RunState.COMPLETE if not tally.errors and not tally.open:
            return "Complete: every invoice has an answer."
        case RunState.COMPLETE if not tally.errors:
            return f"Finished, {count_rows(tally.open)} left without an answer."
        case RunState.COMPLETE:
            return f"Finished, {count_invoices(tally.errors + tally.open)} ended in an error."
        case RunState.STOPPED if summary.as_asked:
            return f"Stopped where asked: {summary.why} {count_rows(tally.open)} left for the next run."
        case RunState.STOPPED:
            count = len(summary.stopped_merchants)
            cause = count_merchants(count) if count else "safety"
            return f"Stopped for {cause}, {count_rows(tally.open)} left open."
        case RunState.INTERRUPTED:
            return f"Interrupted ({summary.why}). Run the same command again to go on."


def _count_rows(summary: RunSummary) -> list[tuple[str, str, str, str]]:
    """Return rows of outcome, reason, number and note; the outcome stands on its first row only."""
    tally = summary.tally
    rows: list[tuple[str, str, str, str]] = []
    for outcome in Outcome:
        for number, (reason, count) in enumerate(_of_outcome(summary, outcome).items()):
            note = _advice(reason) if outcome is Outcome.ERROR else ""
            rows.append((outcome if number == 0 else "", reason, f"{count:,}", note))
    if rows:
        rows.append(("", "", "", ""))
    rows += [
        (label, "", f"{count:,}", "")
        for label, count in (
            ("settled earlier", tally.settled_earlier),
            ("duplicate rows", tally.duplicates),
            ("excluded", tally.excluded),
            ("left open", tally.open),
        )
        if count
    ]
    rows.append(("rows", "", f"{tally.rows:,}", ""))
    return rows


def _amounts(summary: RunSummary) -> list[str]:
    if not summary.amounts_canceled:
        return []
    amounts = {code: _grouped(total) for code, total in summary.amounts_canceled.items()}
    width = max(map(len, amounts.values()))
    return [
        "  amount canceled by this run",
        *(f"    {code}  {amount:>{width}}" for code, amount in amounts.items()),
        "",
    ]


def _stopped_merchants(summary: RunSummary) -> list[str]:
    stopped = summary.stopped_merchants
    if not stopped:
        return []
    shown = stopped[:_MERCHANTS_SHOWN]
    width = max(len(str(one.merchant_id)) for one in shown)
    lines = ["  merchants stopped"]
    for why, merchants in groupby(shown, key=lambda one: one.why):
        lines += [
            f"    {one.merchant_id:<{width}}  {count_invoices(one.open)} left open" for one in merchants
        ]
        lines += wrap(why, _LINE_WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    if more := len(stopped) - len(shown):
        lines.append(f"    and {more:,} more; --json lists them all")
    return [*lines, ""]


def _advice(reason: Reason) -> str:
    return "final" if reason.is_final else "open: the next run asks again"


def _table(rows: list[tuple[str, str, str, str]]) -> list[str]:
    header = ("outcome", "reason", "invoices", "")
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(3)]
    ruled = [header, ("-" * widths[0], "-" * widths[1], "-" * widths[2], ""), *rows]
    return [
        f"  {first:<{widths[0]}}  {second:<{widths[1]}}  {third:>{widths[2]}}  {fourth}".rstrip()
        for first, second, third, fourth in ruled
    ]


def _of_outcome(summary: RunSummary, outcome: Outcome) -> dict[Reason, int]:
    results = summary.tally.results
    return {reason: results[reason] for reason in Reason if reason.outcome is outcome and reason in results}


def _rate(summary: RunSummary) -> float:
    done = sum(summary.tally.results.values())
    return round(done / summary.duration_s, 1) if summary.duration_s else 0.0


def _duration(summary: RunSummary) -> str:
    """Tell the time, and the rate where the run was long enough to have one."""
    rate = _rate(summary)
    has_rate = rate and summary.duration_s >= 1
    return f"{summary.duration_s:.1f} s" + (f", {rate:,} invoices a second" if has_rate else "")


def count_rows(count: int) -> str:
    """Write a number of rows in words for people."""
    return "1 row" if count == 1 else f"{count:,} rows"


def count_invoices(count: int, kind: str = "") -> str:
    """Write a number of invoices, of some kind, in words for people."""
    return f"1 {kind}invoice" if count == 1 else f"{count:,} {kind}invoices"


def count_merchants(count: int) -> str:
    """Write a number of merchants in words for people."""
    return "1 merchant" if count == 1 else f"{count:,} merchants"


def _grouped(amount: str) -> str:
    return f"{Decimal(amount):,f}"
