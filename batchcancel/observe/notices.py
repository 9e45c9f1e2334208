"""What others are told of a run's start and end, in JSON. Pure."""

from __future__ import annotations

from typing import Any, Final

from batchcancel.model import Outcome, RunSummary

NOTICE_VERSION: Final = 1
"""Rises when a key of the JSON changes its meaning."""


def start_notice(*, version: str, env: str, host: str, started_at: str, to_settle: int) -> dict[str, Any]:
    """Say in JSON that a run begins.

    Keys: ``v event version env host started_at to_settle``.
    """
    return {
        "v": NOTICE_VERSION,
        "event": "start",
        "version": version,
        "env": env,
        "host": host,
        "started_at": started_at,
        "to_settle": to_settle,
    }


def end_notice(
    *,
    version: str,
    env: str | None,
    host: str | None,
    started_at: str,
    exit_code: int,
    summary: RunSummary | None,
) -> dict[str, Any]:
    """Say in JSON how a run ended: numbers and words of closed sets, nothing of any invoice or merchant.

    Keys: ``v event version env host started_at exit_code run_id state counts amounts_canceled duration_s``.
    ``env`` and ``host`` are null where the options could not be read, those from ``run_id`` on where the run
    did not come to a summary.
    """
    keys = ("run_id", "state", "counts", "amounts_canceled", "duration_s")
    return {
        "v": NOTICE_VERSION,
        "event": "end",
        "version": version,
        "env": env,
        "host": host,
        "started_at": started_at,
        "exit_code": exit_code,
        **(dict.fromkeys(keys) if summary is None else _told_of(summary)),
    }


def _told_of(summary: RunSummary) -> dict[str, Any]:
    tally = summary.tally
    outcomes = dict.fromkeys(Outcome, 0)
    for reason, count in tally.results.items():
        outcomes[reason.outcome] += count
    return {
        "run_id": summary.run_id,
        "state": summary.state.value,
        "counts": {
            "rows": tally.rows,
            **{outcome.value: count for outcome, count in outcomes.items()},
            "settled_earlier": tally.settled_earlier,
            "duplicates": tally.duplicates,
            "excluded": tally.excluded,
            "open": tally.open,
        },
        "amounts_canceled": dict(summary.amounts_canceled),
        "duration_s": summary.duration_s,
    }
