"""The simulated service without its sockets: a request in, an answer out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from batchcancel.sandbox import bodies
from batchcancel.sandbox.answers import HTML_TYPE, Answer, error, page
from batchcancel.sandbox.auth import Authenticator
from batchcancel.sandbox.envelope import Envelope
from batchcancel.sandbox.faults import Chance, Fault, Shown
from batchcancel.sandbox.invoices import Invoice, InvoiceBook
from batchcancel.sandbox.limits import rate_limit
from batchcancel.sandbox.options import SandboxOptions
from batchcancel.sandbox.requests import Operation, is_object, read_creation, read_list_query, route
from batchcancel.sandbox.wire import RefusedError, WireRequest

_HANG_S: Final = 120.0


class Service:
    """Answers requests; the state of the simulator."""

    def __init__(
        self,
        options: SandboxOptions,
        *,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._authenticator = Authenticator(options)
        self._envelope = Envelope(options)
        self._chance = Chance(options)
        self._rate_limit = rate_limit(options)
        self._first_request_at_s: float | None = None
        self.books = {merchant_id: InvoiceBook() for merchant_id in (options.merchant_id, *options.merchants)}
        """Each merchant's invoices, which no other merchant sees [A]."""
        for book in self.books.values():
            book.make_up(options.invoices, self.now_s())
        self.requests: Counter[str] = Counter()
        """Requests that came in, by operation."""

    def now_s(self) -> float:
        """Read the service's clock, Unix seconds."""
        return self._wall_clock() + self._options.clock_offset_s

    def answer(self, request: WireRequest) -> tuple[Operation, str | None, Answer]:
        """Do what a request asks, or what its fault makes of it.

        Returns:
            The operation, the invoice id if the target names one, and the answer.
        """
        operation, invoice_id = route(request.method, request.target)
        self.requests[operation] += 1
        drawn, wait_s = self._chance.draw()
        answer = self._unavailable(operation)
        if answer is None:
            answer = self._answer_caller(request, operation, invoice_id, drawn)
        if wait_s:
            answer = replace(answer, wait_s=answer.wait_s + wait_s)
        return operation, invoice_id, answer

    def _unavailable(self, operation: Operation) -> Answer | None:
        """Answer for the gateway, which knows nothing of callers; None: the request may pass."""
        elapsed_s = self._elapsed_s()
        if self._options.outage is not None:
            start_s, length_s = self._options.outage
            if start_s <= elapsed_s < start_s + length_s:
                return page(HTTPStatus.SERVICE_UNAVAILABLE, cause="outage")
        return page(HTTPStatus.NOT_FOUND) if operation is Operation.OTHER else None

    def _elapsed_s(self) -> float:
        """Read the time since the first request, which is zero at that request itself."""
        at_s = self._monotonic()
        if self._first_request_at_s is None:
            self._first_request_at_s = at_s
        return at_s - self._first_request_at_s

    def _answer_caller(
        self, request: WireRequest, operation: Operation, invoice_id: str | None, drawn: Fault | None
    ) -> Answer:
        """Find out who asks, and answer encrypted if that is asked for."""
        now_s = self.now_s()
        try:
            caller = self._authenticator.identify(request, now_s)
            self._envelope.check_reply_key(caller)
        except RefusedError as refused:
            return error(refused.http_status, now_s, cause=refused.cause)
        was_encrypted = False
        try:
            request, was_encrypted = self._envelope.open(request, caller)
            answer = self._throttled(now_s)
            if answer is None:
                answer = self._served(request, operation, invoice_id, drawn, self.books[caller.merchant_id])
        except RefusedError as refused:
            answer = error(refused.http_status, now_s, cause=refused.cause)
        answer = replace(
            answer,
            merchant_id=caller.merchant_id,
            scheme=caller.scheme,
            request_encrypted=was_encrypted,
        )
        return self._envelope.close(answer, caller, now_s)

    def _throttled(self, now_s: float) -> Answer | None:
        if self._rate_limit is None or self._rate_limit.admits(self._elapsed_s()):
            return None
        retry_after_s = self._options.retry_after_s
        return error(HTTPStatus.TOO_MANY_REQUESTS, now_s, cause="rate_limit", retry_after_s=retry_after_s)

    def _served(
        self,
        request: WireRequest,
        operation: Operation,
        invoice_id: str | None,
        drawn: Fault | None,
        book: InvoiceBook,
    ) -> Answer:
        now_s = self.now_s()
        invoice = None if invoice_id is None else book.see(invoice_id, now_s)
        fault = drawn
        if fault is None and invoice is not None:
            fault = invoice.next_fault(is_cancelation=operation is Operation.CANCEL)
        if fault is not None and not fault.commits:
            return self._faulty(fault, Answer(http_status=fault.http_status), invoice, now_s)
        match operation:
            case Operation.LIST:
                answer = _listed(request, book, now_s)
            case Operation.CREATE:
                answer = _created(request, book, now_s)
            case _ if invoice is None:
                answer = error(HTTPStatus.NOT_FOUND, now_s)
            case Operation.CANCEL:
                answer = _canceled(request, invoice, now_s)
            case _:
                answer = Answer(http_status=HTTPStatus.OK, body=bodies.invoice_body(invoice, now_s))
        return answer if fault is None else self._faulty(fault, answer, invoice, now_s)

    def _faulty(self, fault: Fault, good: Answer, invoice: Invoice | None, now_s: float) -> Answer:
        """Spoil an answer as the fault says."""
        answer = replace(good, cause=fault.name)
        match fault.shown:
            case Shown.ERROR:
                throttled = fault.http_status is HTTPStatus.TOO_MANY_REQUESTS
                body = bodies.error_body(fault.http_status, now_s)
                answer = replace(
                    answer, body=body, retry_after_s=self._options.retry_after_s if throttled else None
                )
            case Shown.HTML:
                answer = replace(answer, body=bodies.HTML_PAGE, content_type=HTML_TYPE)
            case Shown.EMPTY:
                answer = replace(answer, body=b"")
            case Shown.GARBAGE:
                answer = replace(answer, body=b"\xff\xfe canceled? {", content_type="text/plain")
            case Shown.OTHER_INVOICE if invoice is not None:
                other_id = f"{invoice.invoice_id}-other"
                answer = replace(answer, body=bodies.canceled_body(invoice, now_s, invoice_id=other_id))
            case Shown.TRUNCATED:
                answer = replace(answer, is_cut=True)
            case Shown.LATE:
                answer = replace(answer, wait_s=self._options.slow_ms / 1000)
            case Shown.NEVER:
                answer = replace(answer, http_status=None, wait_s=_HANG_S)
            case _:
                answer = replace(answer, http_status=None)
        return answer


def _listed(request: WireRequest, book: InvoiceBook, now_s: float) -> Answer:
    query = read_list_query(request.target)
    if query is None:
        return error(HTTPStatus.BAD_REQUEST, now_s)
    total, invoices = book.page(query.offset, query.limit, query.status, now_s)
    if not invoices:
        # [D] 404 "No invoices found."; an empty page of a list that is not empty is assumed alike.
        return error(HTTPStatus.NOT_FOUND, now_s)
    body = bodies.list_body(invoices, total, query.offset, query.limit, now_s)
    return Answer(http_status=HTTPStatus.OK, body=body)


def _created(request: WireRequest, book: InvoiceBook, now_s: float) -> Answer:
    wanted = read_creation(request.body)
    if wanted is None:
        return error(HTTPStatus.BAD_REQUEST, now_s)
    invoice = book.create(
        wanted.invoice_id,
        status=wanted.status,
        cents=wanted.cents,
        currency=wanted.currency,
        now_s=now_s,
    )
    if invoice is None:
        return error(HTTPStatus.BAD_REQUEST, now_s)
    # 201 [A]: the documents at hand tell the request's shape only.
    return Answer(http_status=HTTPStatus.CREATED, body=bodies.invoice_body(invoice, now_s), committed=True)


def _canceled(request: WireRequest, invoice: Invoice, now_s: float) -> Answer:
    if not is_object(request.body) or not invoice.cancel(now_s):
        # [D] "Requested action is not allowed."; the body does not say why.
        return error(HTTPStatus.BAD_REQUEST, now_s)
    return Answer(http_status=HTTPStatus.OK, body=bodies.canceled_body(invoice, now_s), committed=True)
