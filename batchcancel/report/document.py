"""The summary of ledgers for programs: one JSON object, whose keys are part of the interface."""

from __future__ import annotations

import json
from typing import Any

from batchcancel.model import Outcome
from batchcancel.report.exports import ledger_name
from batchcancel.report.figures import Figures, Money, Run
from batchcancel.report.summary import mask


def report_document(figures: Figures) -> dict[str, Any]:
    """Say what ledgers come to.

    Keys: ``env merchant_id merchants live invoices outcomes reasons final_errors open_errors amounts
    without_amount runs ledgers``. What ``run --json`` names too has the same name and meaning here.
    Counts are of invoices by their latest row; ``outcomes`` and ``without_amount`` always have all four.
    ``amounts`` are decimal strings by currency and by what became of them. ``merchants`` counts those
    besides the runs' own. ``env`` and ``merchant_id`` are null if all ledgers are empty.
    """
    first = figures.first_run
    return {
        "env": None if first is None else first.env,
        "merchant_id": None if first is None else mask(first.merchant_id),
        "merchants": len(figures.merchants),
        "live": figures.is_live,
        "invoices": figures.invoices,
        "outcomes": {outcome.value: sum(figures.of_outcome(outcome).values()) for outcome in Outcome},
        "reasons": {
            reason.value: count
            for outcome in Outcome
            for reason, count in figures.of_outcome(outcome).items()
        },
        "final_errors": figures.final_errors,
        "open_errors": figures.open_errors,
        "amounts": {
            currency: {kind.name.lower(): f"{sums[kind]:f}" for kind in Money}
            for currency, sums in sorted(figures.money.items())
        },
        "without_amount": {outcome.value: figures.without_amount[outcome] for outcome in Outcome},
        "runs": [_run(one) for one in figures.runs],
        "ledgers": [
            {
                "path": ledger_name(one.path),
                "empty": one.is_empty,
                "live": one.is_live,
                "torn_bytes": one.torn_bytes,
            }
            for one in figures.ledgers
        ],
    }


def _run(run: Run) -> dict[str, Any]:
    """Tell of one run; ``state`` is also ``live`` or ``no_end`` here, ``duration_s`` null where not known."""
    record, end = run.record, run.end
    return {
        "run_id": record.run_id,
        "ledger": ledger_name(run.ledger.path),
        "started_at": record.started_at,
        "ended_at": None if end is None else end.ended_at,
        "duration_s": run.lasted_s,
        "state": run.ending.replace(" ", "_"),
        "why": None if end is None or not isinstance(end.why, str) else end.why,
        "ref": record.ref,
        "operator": record.operator,
        "host": record.host,
        "results": run.rows,
        "errors": run.errors,
        "attempts": run.posts,
        "lookups": run.lookups,
    }


def as_json(document: dict[str, Any]) -> str:
    """Write a document on one line, in ASCII: nothing of a ledger reaches a terminal raw."""
    return json.dumps(document) + "\n"
