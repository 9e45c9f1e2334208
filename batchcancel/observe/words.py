"""How far it is, in words for people and as JSON for programs. Pure."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Final

from batchcancel.model import ListProgressed, PauseCause, Vitals
from batchcancel.observe.tracker import Moment
from batchcancel.observe.watched import Count

_HELD_BY: Final = {
    PauseCause.BY_HAND: "paused by you",
    PauseCause.RATE_LIMITED: "waiting as the service asked (429)",
    PauseCause.OUTAGE: "waiting out an outage",
    PauseCause.KEY_IN_DOUBT: "waiting, since the key is in doubt",
    PauseCause.ENGINE_AWAY: "waiting for Temporal to answer",
    PauseCause.NO_WORKER: "waiting for a worker",
}
"""Why nothing leaves."""
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400


def sentence(moment: Moment) -> str:
    """Say everything in one line."""
    counts = ", ".join(map(count_text, moment.counts))
    going = [
        f"{moment.rate:,.1f} a second",
        f"{moment.vitals.in_flight:,} in flight",
        *limit_texts(moment),
    ]
    if (workers := workers_text(moment.vitals)) is not None:
        going.append(workers)
    if moment.eta_s is not None and moment.done < moment.total:
        going.append(f"about {duration_text(moment.eta_s)} left")
    parts = [f"{moment.done:,} of {moment.total:,} invoices: {counts}", ", ".join(going)]
    if amounts := amount_texts(moment.vitals):
        parts.append(f"canceled so far: {', '.join(amounts)}")
    if moment.merchants_stopped:
        parts.append(stopped_text(moment.merchants_stopped))
    return "; ".join(parts)


def json_line(moment: Moment, *, ended: bool) -> str:
    """Write everything as one JSON object; the keys are part of the interface (docs/reference/json.md).

    Args:
        moment: What is told.
        ended: Whether this is the last object.
    """
    vitals = moment.vitals
    money = {"amounts_canceled": vitals.amounts_canceled} if moment.cancels else {}
    return json.dumps(
        {
            "type": "progress",
            "done": moment.done,
            "total": moment.total,
            moment.counted_as: {one.key: one.number for one in moment.counts},
            **money,
            "rate": round(moment.rate, 1),
            "eta_s": None if moment.eta_s is None else round(moment.eta_s, 1),
            "in_flight": vitals.in_flight,
            "allowed_rate": None if vitals.allowed_rate is None else round(vitals.allowed_rate, 1),
            "set_rate": vitals.set_rate,
            "held_by": vitals.held_by,
            **({} if vitals.workers is None else {"workers": vitals.workers.processes}),
            "stopping": vitals.is_stopping,
            "merchants_stopped": moment.merchants_stopped,
            "ended": ended,
        }
    )


def list_sentence(one: ListProgressed) -> str:
    """Say in one line how far a list is."""
    if one.to_look_up:
        return f"{one.looked_up:,} of {one.to_look_up:,} invoices looked up"
    of_status = "" if one.total is None else f"; there are {one.total:,} of status {one.status}"
    return f"{one.rows:,} invoices read{of_status}"


def list_json_line(one: ListProgressed, *, ended: bool) -> str:
    """Write how far a list is as one JSON object; its keys are part of the interface likewise."""
    return json.dumps(
        {
            "type": "progress",
            "read": one.rows,
            "status": one.status,
            "total": one.total,
            "looked_up": one.looked_up,
            "to_look_up": one.to_look_up,
            "ended": ended,
        }
    )


def stopping_text(*, cancels: bool) -> str:
    """Say what a stop means for what is canceled, or only looked at."""
    return "no new cancelation leaves" if cancels else "nothing new is asked"


def count_text(one: Count) -> str:
    """Say how many invoices there are of one kind."""
    return f"{one.number:,} {one.text}"


def stopped_text(merchants: int) -> str:
    """Say how many merchants were stopped."""
    return f"{merchants:,} {'merchant' if merchants == 1 else 'merchants'} stopped"


def hold_text(cause: PauseCause, *, elsewhere: bool) -> str:
    """Say why nothing leaves; a job that is done elsewhere may have been paused by others."""
    return "paused" if elsewhere and cause is PauseCause.BY_HAND else _HELD_BY[cause]


def workers_text(vitals: Vitals) -> str | None:
    """Say how many work on it elsewhere; None where it is done here, or nobody is to work on it."""
    workers = vitals.workers
    if workers is None:
        return None
    if not workers.processes:
        is_meant = vitals.is_stopping or vitals.held_by is PauseCause.BY_HAND
        return None if is_meant else "no worker at work"
    processes = f"{workers.processes:,} {'worker' if workers.processes == 1 else 'workers'}"
    return f"{processes} on {workers.hosts:,} {'host' if workers.hosts == 1 else 'hosts'}"


def amount_texts(vitals: Vitals) -> list[str]:
    """Say what was canceled, a text for each currency; every digit that there is stays."""
    return [f"{Decimal(amount):,f} {currency}" for currency, amount in vitals.amounts_canceled.items()]


def limit_texts(moment: Moment) -> list[str]:
    """Say what holds it to its speed, or holds it up, and why."""
    vitals = moment.vitals
    if vitals.is_stopping:
        return [f"stopping: {stopping_text(cancels=moment.cancels)}"]
    if vitals.held_by is not None:
        return [hold_text(vitals.held_by, elsewhere=vitals.workers is not None)]
    if vitals.allowed_rate is None:
        return ["no limit"]
    if not is_cut(vitals):
        return [f"limit {vitals.allowed_rate:,.6g} a second"]
    was = "" if vitals.set_rate is None else f" from {vitals.set_rate:,.6g}"
    return [f"limit {vitals.allowed_rate:,.1f} a second", f"cut{was} after a 429 or 503"]


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
