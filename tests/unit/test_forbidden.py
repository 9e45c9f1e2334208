"""Ten thousand invoices that may not be touched, in virtual time: what each of them costs everyone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from batchcancel.model import Event, Invoice, ManifestRow, PauseStarted, Reason, Reply, RequestKind, Subject
from batchcancel.pace import Pace, Quota
from batchcancel.retry import Case, Retrier, Settled, Waiting

InVirtualTime = Callable[[Coroutine[Any, Any, Any]], Any]
LATENCY_S = 0.01
WORKERS = 16
INVOICES = 10_000


class Service:
    """Refuses every invoice of which ``is_forbidden`` is true with 403, and knows the key."""

    def __init__(self, is_forbidden: Callable[[int], bool]) -> None:
        self.sent: Counter[RequestKind] = Counter()
        self._is_forbidden = is_forbidden

    async def __call__(self, kind: RequestKind, invoice_id: Subject) -> Reply:
        self.sent[kind] += 1
        await asyncio.sleep(LATENCY_S)
        if not isinstance(invoice_id, str):
            return Reply(http_status=404, is_object=True)
        if self._is_forbidden(int(invoice_id)):
            return Reply(http_status=403, is_object=True)
        return Reply(http_status=200, is_object=True, invoice=Invoice(id=invoice_id, status="CANCELED"))


@pytest.mark.parametrize(
    ("is_forbidden", "most_reads"),
    [
        # Others are accepted all the time, though not always between a refusal and the question.
        pytest.param(lambda number: number % 3 == 0, INVOICES // 6, id="a-third"),
        # Where nobody else vouches for the key, one read answers for all who were refused before it.
        pytest.param(lambda _number: True, INVOICES // 10, id="all"),
    ],
)
def test_ten_thousand_forbidden_invoices_cost_no_ten_thousand_pauses(
    in_virtual_time: InVirtualTime, is_forbidden: Callable[[int], bool], most_reads: int
) -> None:
    """Each is refused by name, few reads ask about the key, and all together take hardly longer."""
    service = Service(is_forbidden)
    events: list[Event] = []
    reasons: Counter[Reason] = Counter()

    async def run() -> float:
        clock = asyncio.get_running_loop().time
        pace = Pace(
            service,
            slots=asyncio.Semaphore(WORKERS),
            quota=Quota(None, on_event=events.append),
            max_outage_s=600,
            on_event=events.append,
        )
        retrier = Retrier(pace, max_attempts=5, ledger_began_at=None)
        numbers = iter(range(INVOICES))

        async def work() -> None:
            for number in numbers:
                row = ManifestRow(row=number + 1, invoice_id=str(number))
                case = Case(row=row, next=RequestKind.CANCEL)
                step = await retrier.advance(case)
                if isinstance(step, Waiting):  # everyone waits for the key's sake
                    step = await retrier.persist(case, step)
                assert isinstance(step, Settled)
                reasons[step.result.reason] += 1

        began_at = clock()
        await asyncio.gather(*(work() for _ in range(WORKERS)))
        return clock() - began_at

    took_s = in_virtual_time(run())
    forbidden = sum(map(is_forbidden, range(INVOICES)))
    assert reasons == +Counter({Reason.REFUSED: forbidden, Reason.CANCELED: INVOICES - forbidden})
    assert service.sent[RequestKind.PROBE] <= most_reads
    assert sum(isinstance(event, PauseStarted) for event in events) <= most_reads
    requests = sum(service.sent.values())
    assert took_s <= 1.5 * requests * LATENCY_S / WORKERS
