"""A moment of a run in words for people, and as JSON for programs. Pure."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Final

from batchcancel.model import Outcome, PauseCause, Vitals
from batchcancel.observe.tracker import Moment

_HELD_BY: Final = {
    PauseCause.BY_HAND: "paused by you",
    PauseCause.RATE_LIMITED: "waiting as the service asked (429)",
    PauseCause.OUTAGE: "waiting out an outage",
    PauseCause.KEY_IN_DOUBT: "waiting, since the key is in doubt",
}
"""Why nothing leaves."""
_STOPPING: Final = "stopping: no new cancelation leaves"
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400


def sentence(moment: Moment) -> str:
    """Say everything in one line."""
    counts = ", ".join(outcome_text(outcome, count) for outcome, count in moment.outcomes.items())
    going = [
        f"{moment.rate:,.1f} a second",
        f"{moment.vitals.in_flight:,} in flight",
        *limit_texts(moment.vitals),
    ]
    if moment.eta_s is not None and moment.done < moment.total:
        going.append(f"about {duration_text(moment.eta_s)} left")
    parts = [f"{moment.done:,} of {moment.total:,} invoices: {counts}", ", ".join(going)]
    if amounts := amount_texts(moment.vitals):
        parts.append(f"canceled so far: {', '.join(amounts)}")
    if moment.merchants_stopped:
        parts.append(stopped_text(moment.merchants_stopped))
    return "; ".join(parts)


def json_line(moment: Moment, *, ended: bool) -> str:
    """Write everything as one JSON object; the keys are part of the interface (see the README).

    Args:
        moment: The run.
        ended: Whether this is the last object.
    """
    vitals = moment.vitals
    return json.dumps(
        {
            "type": "progress",
            "done": moment.done,
            "total": moment.total,
            "outcomes": {outcome.value: count for outcome, count in moment.outcomes.items()},
            "amounts_canceled": vitals.amounts_canceled,
            "rate": round(moment.rate, 1),
            "eta_s": None if moment.eta_s is None else round(moment.eta_s, 1),
            "in_flight": vitals.in_flight,
            "allowed_rate": None if vitals.allowed_rate is None else round(vitals.allowed_rate, 1),
            "set_rate": vitals.set_rate,
            "held_by": vitals.held_by,
            "stopping": vitals.is_stopping,
            "merchants_stopped": moment.merchants_stopped,
            "ended": ended,
        }
    )


def outcome_text(outcome: Outcome, count: int) -> str:
    """Say how many invoices ended so."""
    return f"{count:,} {outcome.replace('_', ' ')}"


def stopped_text(merchants: int) -> str:
    """Say how many merchants were stopped."""
    return f"{merchants:,} {'merchant' if merchants == 1 else 'merchants'} stopped"


def amount_texts(vitals: Vitals) -> list[str]:
    """Say what was canceled, a text for each currency; every digit that there is stays."""
    return [f"{Decimal(amount):,f} {currency}" for currency, amount in vitals.amounts_canceled.items()]


def limit_texts(vitals: Vitals) -> list[str]:
    """Say what holds the run to its speed, or holds it up, and why."""
    if vitals.is_stopping:
        return [_STOPPING]
    if vitals.held_by is not None:
        return [_HELD_BY[vitals.held_by]]
    if vitals.allowed_rate is None:
        return ["no limit"]
    if not is_cut(vitals):
        return [f"limit {vitals.allowed_rate:,.6g} a second"]
    was = "" if vitals.set_rate is None else f" from {vitals.set_rate:,.6g}"
    return [f"limit {vitals.allowed_rate:,.1f} a second", f"cut{was} by refusals (429)"]


def is_cut(vitals: Vitals) -> bool:
    """Tell whether less is allowed than what was asked for, since the service has refused more."""
    if vitals.allowed_rate is None:
        return False
    return vitals.set_rate is None or vitals.allowed_rate < vitals.set_rate


def duration_text(seconds: float) -> str:
    """Say how long something takes, in two units at most."""
    whole_s = max(1, round(seconds))
    if whole_s < _MINUTE_S:
        return f"{whole_s} s"
    if whole_s < _HOUR_S:
        return f"{whole_s // _MINUTE_S} min {whole_s % _MINUTE_S:02} s"
    if whole_s < _DAY_S:
        return f"{whole_s // _HOUR_S} h {whole_s % _HOUR_S // _MINUTE_S:02} min"
    return f"{whole_s // _DAY_S:,} d {whole_s % _DAY_S // _HOUR_S} h"
