"""What people have asked of a job, as its history says: also of one that nobody can do again."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from temporalio.client import Client as Engine
from temporalio.client import WorkflowExecutionStatus, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode

from batchcancel.cluster.connection import workflow_id_of
from batchcancel.cluster.converter import DATA_CONVERTER
from batchcancel.cluster.messages import Account, Task
from batchcancel.cluster.running import job_in
from batchcancel.ledger import History

_T = TypeVar("_T")


class Orders(Struct, frozen=True, kw_only=True):
    """What a job is to keep to, whoever holds it."""

    is_paused: bool = False
    rate: float | None = None
    """Requests a second that somebody has set; None if nobody has."""
    is_canceled: bool = False


async def orders_left(engine: Engine, account: Account, history: History) -> Orders:
    """Return what was asked of the last job of an account and no coordinator has lived to hear.

    Args:
        engine: A connection to Temporal.
        account: Whose.
        history: Of the ledger that the next coordinator has: what was asked of another ledger's job, or of
            one that has ended by itself, is none of its.

    Raises:
        RPCError: Temporal can't be asked.
    """
    handle = engine.get_workflow_handle(workflow_id_of(account))
    try:
        found = await handle.describe()
        job = await job_in(found, handle)
        if found.status is WorkflowExecutionStatus.RUNNING or job.memo.run_id not in history.run_ids:
            return Orders()
        told = await engine.get_workflow_handle(handle.id, run_id=found.run_id).fetch_history()
    except RPCError as exc:
        if exc.status is RPCStatusCode.NOT_FOUND:
            return Orders()
        raise
    orders, is_handed_over = read_orders(told)
    if is_handed_over:
        return orders
    is_cut_short = found.status is not WorkflowExecutionStatus.COMPLETED
    is_unheard = is_cut_short or job.memo.run_id in history.unended_run_ids
    return Orders(is_canceled=orders.is_canceled and is_unheard)


def read_orders(told: WorkflowHistory) -> tuple[Orders, bool]:
    """Read what was asked, in its order, and whether another coordinator has come."""
    is_paused, rate, is_canceled, is_handed_over = False, None, False, False
    for event in told.events:
        if event.HasField("workflow_execution_started_event_attributes"):
            task = _value(event.workflow_execution_started_event_attributes, Task)
            if task is not None:
                is_paused, rate = task.is_paused, task.rate
                is_canceled, is_handed_over = task.is_canceled, task.is_handed_over
        elif event.HasField("workflow_execution_signaled_event_attributes"):
            signal = event.workflow_execution_signaled_event_attributes
            match signal.signal_name:
                case "pause":
                    is_paused = True
                case "resume":
                    is_paused = False
                case "cancel":
                    is_canceled = True
                case "hand_over":
                    is_handed_over = True
                case "set_rate":
                    wanted = _value(signal, float)
                    rate = wanted if wanted is not None and 0 < wanted < math.inf else rate
                case _:
                    pass
    return Orders(is_paused=is_paused, rate=rate, is_canceled=is_canceled), is_handed_over


def _value(attributes: Any, kind: type[_T]) -> _T | None:  # noqa: ANN401 - of the server's own messages
    """Return the first argument; None if it is none, as whoever may use the namespace may send."""
    match attributes.input.payloads:
        case [payload, *_]:
            with suppress(msgspec.DecodeError, KeyError, RuntimeError):  # the last two are the SDK's
                value: _T = DATA_CONVERTER.payload_converter.from_payload(payload, kind)
                return value
        case _:
            pass
    return None
