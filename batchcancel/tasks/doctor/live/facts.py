"""What this package assumes of the service, and whether a live check bears it out. Pure.

Nothing here was tried against the live service; see the docs page ``live-check.md``, which a test holds
against this table. What is told of a reply are statuses, names and types, never a value.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final

from msgspec import Struct

from batchcancel.tasks.doctor.live.evidence import Evidence, Step
from batchcancel.tasks.doctor.live.judgements import (
    Judgement,
    judge_400,
    judge_amounts,
    judge_cancel_date,
    judge_cancelation,
    judge_canceled,
    judge_created_date,
    judge_dates,
    judge_draft,
    judge_encrypted,
    judge_filter,
    judge_found,
    judge_history,
    judge_id,
    judge_kept,
    judge_longest,
    judge_names,
    judge_newest,
    judge_objects,
    judge_past_end,
    judge_refusal,
    judge_retry_after,
    judge_status,
    judge_submit_time,
    judge_total,
    judge_unknown,
    on,
    on_form,
    on_header,
)


class Verdict(StrEnum):
    """Whether a fact is one."""

    HELD = "held"
    DID_NOT_HOLD = "did_not_hold"
    NOT_SEEN = "not_seen"


class Judged(Struct, frozen=True, kw_only=True):
    """A fact after a live check."""

    name: str
    verdict: Verdict
    fact: str
    assumed_by: str
    seen: str
    """What it was judged by; redacted."""


class Fact(Struct, frozen=True, kw_only=True):
    """Something that this package assumes of the service."""

    name: str
    sentence: str
    assumed_by: str
    """The modules that rely on it."""
    judge: Callable[[Evidence], Judgement]


def judge(evidence: Evidence) -> tuple[Judged, ...]:
    """Judge every fact."""
    return tuple(_judged(fact, *fact.judge(evidence)) for fact in FACTS)


def _judged(fact: Fact, has_held: bool | None, seen: str) -> Judged:  # noqa: FBT001 - one fact's yes or no
    verdict = Verdict.NOT_SEEN
    if has_held is not None:
        verdict = Verdict.HELD if has_held else Verdict.DID_NOT_HOLD
    return Judged(name=fact.name, verdict=verdict, fact=fact.sentence, assumed_by=fact.assumed_by, seen=seen)


FACTS: Final = (
    Fact(
        name="new_is_draft",
        sentence="An invoice that is created and not sent is a DRAFT.",
        assumed_by="sandbox, doctor",
        judge=on(Step.CREATE_PLAIN, Step.CREATE_ZEROS, judge=judge_draft),
    ),
    Fact(
        name="found_by_number",
        sentence="A new invoice is found by its invoiceNumber at once.",
        assumed_by="api, manifest",
        judge=on(Step.READ_NEW, judge=judge_found),
    ),
    Fact(
        name="id_is_number",
        sentence="An invoice's id and its invoiceNumber are the same.",
        assumed_by="manifest, list",
        judge=on(Step.READ_NEW, Step.CREATE_PLAIN, judge=judge_id),
    ),
    Fact(
        name="draft_can_be_canceled",
        sentence="A draft can be canceled: 2xx, a JSON object, status CANCELED.",
        assumed_by="verdict, sandbox",
        judge=on(Step.CANCEL, judge=judge_cancelation),
    ),
    Fact(
        name="reply_names_invoice",
        sentence="The reply to a cancelation names the invoice that was asked for, as id or invoiceNumber.",
        assumed_by="verdict",
        judge=on(Step.CANCEL, judge=judge_names),
    ),
    Fact(
        name="second_cancel_is_refused",
        sentence="A second cancelation is refused with a 4xx.",
        assumed_by="verdict",
        judge=on(Step.CANCEL_AGAIN, judge=judge_refusal, after=Step.CANCEL),
    ),
    Fact(
        name="refusal_is_400",
        sentence="That refusal is a 400 with a JSON object.",
        assumed_by="sandbox",
        judge=on(Step.CANCEL_AGAIN, judge=judge_400, after=Step.CANCEL),
    ),
    Fact(
        name="cancel_shows_at_once",
        sentence="A look-up right after a cancelation shows CANCELED.",
        assumed_by="verdict, pipeline (canary)",
        judge=on(Step.READ_CANCELED, judge=judge_canceled, after=Step.CANCEL),
    ),
    Fact(
        name="history_is_there",
        sentence="A look-up has invoiceHistory with events.",
        assumed_by="api, verdict",
        judge=on(Step.READ_CANCELED, Step.READ_NEW, judge=judge_history),
    ),
    Fact(
        name="history_dates_cancel",
        sentence="invoiceHistory dates the CANCEL, in UTC, within two minutes of the request.",
        assumed_by="verdict",
        judge=judge_cancel_date,
    ),
    Fact(
        name="unknown_id_is_404",
        sentence="An unknown id is answered with 404 and a JSON object.",
        assumed_by="verdict",
        judge=on(Step.READ_UNKNOWN, judge=judge_unknown),
    ),
    Fact(
        name="status_is_listed",
        sentence="An invoice's status is one of the seven words that are documented.",
        assumed_by="verdict",
        judge=on(Step.READ_NEW, Step.READ_CANCELED, judge=judge_status),
    ),
    Fact(
        name="amounts_are_decimals",
        sentence="totalAmount and balanceAmount are there, as decimal strings or as JSON numbers.",
        assumed_by="api, report",
        judge=on(Step.READ_NEW, Step.READ_CANCELED, judge=judge_amounts),
    ),
    Fact(
        name="submit_time_is_utc",
        sentence="submitTimeUtc is an RFC 3339 time in UTC, with up to nine decimals.",
        assumed_by="api, ledger",
        judge=on(Step.READ_NEW, Step.CANCEL, judge=judge_submit_time),
    ),
    Fact(
        name="leading_zeros_stay",
        sentence="An id keeps its leading zeros.",
        assumed_by="manifest",
        judge=on_form(Step.CREATE_ZEROS, Step.READ_ZEROS),
    ),
    Fact(
        name="ids_may_have_marks",
        sentence="An id may have a full stop, an underscore and a hyphen.",
        assumed_by="manifest, api",
        judge=on_form(Step.CREATE_MARKS, Step.READ_MARKS),
    ),
    Fact(
        name="list_begins_with_newest",
        sentence="A new invoice stands at the head of the list at once.",
        assumed_by="list",
        judge=judge_newest,
    ),
    Fact(
        name="list_has_total",
        sentence="The list says totalInvoices, a whole number.",
        assumed_by="list",
        judge=on(Step.LIST_NEW, Step.LIST_LONGEST, judge=judge_total),
    ),
    Fact(
        name="list_has_created_date",
        sentence="Invoices of the list have createdDate, an RFC 3339 time in UTC.",
        assumed_by="list",
        judge=on(Step.LIST_NEW, judge=judge_created_date),
    ),
    Fact(
        name="list_filters_by_status",
        sentence="The list filters by status, and has a canceled invoice at once.",
        assumed_by="list",
        judge=on(Step.LIST_CANCELED, judge=judge_filter),
    ),
    Fact(
        name="list_takes_1000",
        sentence="A page may have 1,000 invoices, and is at most 1 MiB long.",
        assumed_by="list, api",
        judge=on(Step.LIST_LONGEST, judge=judge_longest),
    ),
    Fact(
        name="list_ends_empty",
        sentence="Past its end the list is a 404 with a JSON object, or a page without invoices.",
        assumed_by="list",
        judge=on(Step.LIST_PAST_END, judge=judge_past_end),
    ),
    Fact(
        name="replies_are_objects",
        sentence="Every reply of these requests is a JSON object.",
        assumed_by="api, verdict",
        judge=judge_objects,
    ),
    Fact(
        name="date_header",
        sentence="Every reply has a Date header, an HTTP date.",
        assumed_by="api (clock)",
        judge=judge_dates,
    ),
    Fact(
        name="correlation_id_header",
        sentence="Every reply has a v-c-correlation-id header.",
        assumed_by="ledger",
        judge=on_header("v-c-correlation-id"),
    ),
    Fact(
        name="retry_after_header",
        sentence="A 429 has a Retry-After header.",
        assumed_by="pace",
        judge=judge_retry_after,
    ),
    Fact(
        name="connections_are_kept",
        sentence="Connections are kept alive and used again.",
        assumed_by="api",
        judge=judge_kept,
    ),
    Fact(
        name="replies_come_encrypted",
        sentence="Where encrypted replies are asked for, good replies come encrypted.",
        assumed_by="api (encryption)",
        judge=judge_encrypted,
    ),
)
"""Every fact, in the order in which people read them."""
