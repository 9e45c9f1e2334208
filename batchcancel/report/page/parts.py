"""What stands on the page: its head, its runs and what is said of its rows; the rest lies beside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from batchcancel.report.figures import Ending, Figures, Run
from batchcancel.report.page.course import course
from batchcancel.report.page.outcomes import (
    cards,
    money_chart,
    money_notes,
    money_table,
    outcome_chart,
    reasons_table,
)
from batchcancel.report.page.pieces import Table
from batchcancel.report.sample import TableData
from batchcancel.report.summary import count_invoices, count_merchants, mask
from batchcancel.report.words import printable, show_duration, show_time

NUMBER_COLUMNS: Final = frozenset({"Amount", "Balance", "Requests", "Latency ms"})
"""Columns of the table of invoices that are set to the right."""
_RUNS_SHOWN: Final = 200
_LEDGERS_NAMED: Final = 3
_ENVIRONMENTS: Final = frozenset({"sandbox", "test", "production"})


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
        "cards": cards(figures) if has_any else (),
        "outcome_chart": outcome_chart(figures) if has_any else None,
        "money_table": money_table(figures) if figures.money else None,
        "money_notes": list(money_notes(figures)),
        "money_chart": money_chart(figures),
        "reasons_table": reasons_table(figures) if has_any else None,
        **course(figures),
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
