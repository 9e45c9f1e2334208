"""How facts are judged: each from what came back, to whether it held and what showed it. Pure.

What is told of a reply are statuses, names and types, never a value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from batchcancel.tasks.doctor.live.evidence import LISTED, Evidence, Exchange, Step

_CLOCK_TOLERANCE_S: Final = 120.0
_AMOUNT_KINDS: Final = frozenset({"decimal", "digits", "integer", "number"})
_AMOUNTS: Final = ("totalAmount", "balanceAmount")
_CREATIONS: Final = (Step.CREATE_PLAIN, Step.CREATE_ZEROS, Step.CREATE_MARKS, Step.CREATE_SPARE)


Judgement = tuple[bool | None, str]
"""Whether it held, None if that was not seen; and what it was judged by."""


def on(
    *steps: Step, judge: Callable[[Exchange], Judgement], after: Step | None = None
) -> Callable[[Evidence], Judgement]:
    """Judge by the first of some requests that the service itself answered.

    Args:
        steps: The requests, the best one first.
        judge: Judges its reply.
        after: What has to have gone well for the reply to say anything.
    """

    def judge_step(evidence: Evidence) -> Judgement:
        before = None if after is None else evidence.answer_to(after)
        if after is not None and (before is None or not before.reply.is_success):
            return None, evidence.lack_of(after)
        exchange = evidence.answer_to(*steps)
        return (None, evidence.lack_of(steps[0])) if exchange is None else judge(exchange)

    return judge_step


# --- creating and canceling -----------------------------------------------------------------------


def judge_draft(exchange: Exchange) -> Judgement:
    """Held if the invoice is a DRAFT; not seen if there is none."""
    return (exchange.reply.invoice.status == "DRAFT" if exchange.reply.is_success else None), exchange.summary


def judge_cancelation(exchange: Exchange) -> Judgement:
    """Held if the reply is what the verdict believes without a look-up."""
    reply = exchange.reply
    return reply.is_success and reply.is_object and reply.invoice.status == "CANCELED", exchange.summary


def judge_names(exchange: Exchange) -> Judgement:
    """Held if the reply names the invoice in one of two places."""
    if not exchange.reply.is_success:
        return None, exchange.summary
    invoice = exchange.reply.invoice
    places = (("id", invoice.id), ("invoiceNumber", invoice.number))
    named = [place for place, value in places if value == exchange.asked_for]
    return bool(named), f"named by {' and '.join(named) or 'neither'}"


def judge_id(exchange: Exchange) -> Judgement:
    """Held if both names of an invoice are there and the same."""
    invoice = exchange.reply.invoice
    if invoice.id is None or invoice.number is None:
        return None, f"{'id' if invoice.id is None else 'invoiceNumber'} is not in the reply"
    return (True, "the same") if invoice.id == invoice.number else (False, "they differ")


def judge_refusal(exchange: Exchange) -> Judgement:
    """Held if it is a 4xx."""
    return exchange.reply.is_client_error, exchange.shape


def judge_400(exchange: Exchange) -> Judgement:
    """Held if it is a 400 with an object."""
    return exchange.reply.http_status == 400 and exchange.reply.is_object, exchange.shape


def judge_canceled(exchange: Exchange) -> Judgement:
    """Held if a look-up shows it canceled."""
    return exchange.reply.is_success and exchange.reply.invoice.status == "CANCELED", exchange.summary


def judge_history(exchange: Exchange) -> Judgement:
    """Held if there is at least one event."""
    kinds = [
        f"{path}: {kind}" for path, kind in exchange.seen.shape.items() if path.startswith("invoiceHistory")
    ]
    if not exchange.reply.is_success:
        return None, exchange.summary
    return any(kind.startswith("invoiceHistory[]") for kind in kinds), ", ".join(kinds) or "none"


def judge_cancel_date(evidence: Evidence) -> Judgement:
    """Held if the CANCEL is dated when the request left, by the service's clock."""
    exchange = evidence.answer_to(Step.READ_CANCELED)
    if exchange is None or evidence.cancel_at is None:
        return None, evidence.lack_of(Step.READ_CANCELED)
    if not judge_canceled(exchange)[0]:
        return None, exchange.summary
    at = exchange.reply.invoice.canceled_at
    if at is None:
        return False, "no CANCEL event with a date in UTC"
    off_s = at - evidence.cancel_at
    return abs(off_s) <= _CLOCK_TOLERANCE_S, f"dated {round(off_s)} s after it was sent"


# --- reading --------------------------------------------------------------------------------------


def judge_found(exchange: Exchange) -> Judgement:
    """Held if the invoice that was asked for came."""
    return exchange.reply.is_success and exchange.names_it, exchange.summary


def judge_unknown(exchange: Exchange) -> Judgement:
    """Held if it is a 404 with an object."""
    return exchange.reply.http_status == 404 and exchange.reply.is_object, exchange.shape


def judge_status(exchange: Exchange) -> Judgement:
    """Held if the status is documented."""
    return (exchange.reply.invoice.status in LISTED if exchange.reply.is_success else None), exchange.summary


def judge_amounts(exchange: Exchange) -> Judgement:
    """Held if both amounts can be read."""
    if not exchange.reply.is_success:
        return None, exchange.summary
    shape = exchange.seen.shape
    kinds = {name: shape.get(f"orderInformation.amountDetails.{name}", "absent") for name in _AMOUNTS}
    return set(kinds.values()) <= _AMOUNT_KINDS, ", ".join(f"{name}: {kind}" for name, kind in kinds.items())


def judge_submit_time(exchange: Exchange) -> Judgement:
    """Held if it is a time in UTC."""
    if not exchange.reply.is_success:
        return None, exchange.summary
    kind = exchange.seen.shape.get("submitTimeUtc", "absent")
    return kind.startswith("time"), kind


def on_form(create: Step, read: Step) -> Callable[[Evidence], Judgement]:
    """Judge whether a number of some form can be given, and the invoice be asked for by it."""

    def judge_form(evidence: Evidence) -> Judgement:
        created, exchange = evidence.answer_to(create), evidence.answer_to(read)
        if created is None:
            return None, evidence.lack_of(create)
        if not created.reply.is_success:
            return False, f"creating one: {created.shape}"
        return (None, evidence.lack_of(read)) if exchange is None else judge_found(exchange)

    return judge_form


# --- the list -------------------------------------------------------------------------------------


def judge_newest(evidence: Evidence) -> Judgement:
    """Held if the list begins with an invoice that was just made."""
    exchange = evidence.answer_to(Step.LIST_NEW)
    listing = None if exchange is None else exchange.reply.listing
    if listing is None:
        return None, evidence.lack_of(Step.LIST_NEW) if exchange is None else exchange.summary
    created = [one for step in _CREATIONS if (one := evidence.answer_to(step)) and one.reply.is_success]
    made = {
        name for one in created for name in (one.reply.invoice.id, one.reply.invoice.number, one.asked_for)
    }
    places = [str(place) for place, one in enumerate(listing.invoices, 1) if one.id in made]
    return places[:1] == ["1"], f"at {', '.join(places)}" if places else "none of them"


def judge_total(exchange: Exchange) -> Judgement:
    """Held if the count can be read."""
    if not exchange.reply.is_success:
        return None, exchange.summary
    listing = exchange.reply.listing
    is_count = listing is not None and listing.total is not None
    return is_count, exchange.seen.shape.get("totalInvoices", "absent")


def judge_created_date(exchange: Exchange) -> Judgement:
    """Held if each invoice of the page has the date."""
    if exchange.reply.listing is None or not exchange.reply.listing.invoices:
        return None, exchange.summary
    kind = exchange.seen.shape.get("invoices[].createdDate", "absent")
    return all(one.startswith("time") for one in kind.split("|")), kind


def judge_filter(exchange: Exchange) -> Judgement:
    """Held if canceled invoices came and no others."""
    listing = exchange.reply.listing
    if listing is None:
        return False, exchange.summary
    others = sum(one.status != "CANCELED" for one in listing.invoices)
    has_held = bool(listing.invoices) and not others
    return has_held, f"{len(listing.invoices)} on the page, {others} of another status"


def judge_longest(exchange: Exchange) -> Judgement:
    """Held if the longest page came whole."""
    if exchange.reply.listing is not None:
        return True, f"{len(exchange.reply.listing.invoices)} on the page"
    if exchange.reply.is_success and not exchange.reply.is_object:
        return False, f"{exchange.reply.http_status}, and the body did not come whole or is over 1 MiB"
    return False, exchange.summary


def judge_past_end(exchange: Exchange) -> Judgement:
    """Held if it is one of the two forms of nothing."""
    listing = exchange.reply.listing
    if listing is not None:
        return not listing.invoices, f"{len(listing.invoices)} on the page"
    return judge_unknown(exchange)


# --- every reply ----------------------------------------------------------------------------------


def on_header(name: str) -> Callable[[Evidence], Judgement]:
    """Judge whether a header comes with every reply."""

    def judge_header(evidence: Evidence) -> Judgement:
        return _share([name in one.headers for one in evidence.observations])

    return judge_header


def judge_dates(evidence: Evidence) -> Judgement:
    """Held if every reply is dated."""
    return _share([one.dated_at is not None for one in evidence.observations])


def judge_retry_after(evidence: Evidence) -> Judgement:
    """Held if every 429 says when to come again."""
    throttled = [one for one in evidence.observations if one.http_status == 429]
    if not throttled:
        return None, "no 429 came"
    return _share(["retry-after" in one.headers for one in throttled])


def judge_objects(evidence: Evidence) -> Judgement:
    """Held if every reply is an object."""
    return _share([one.is_object for one in evidence.observations])


def judge_kept(evidence: Evidence) -> Judgement:
    """Held if any connection was used twice."""
    later = evidence.observations[1:]
    kept = sum(one.was_kept for one in later)
    return (kept > 0 if later else None), f"{kept} of {len(later)} later requests went over a used one"


def judge_encrypted(evidence: Evidence) -> Judgement:
    """Held if every good reply came encrypted; errors may come plain."""
    if not evidence.wants_encrypted:
        return None, "BATCHCANCEL_MLE is not both"
    plain = sorted({one.http_status for one in evidence.observations if not one.was_encrypted})
    is_good_plain = any(status < 400 for status in plain)
    return not is_good_plain, f"plain were {', '.join(map(str, plain))}" if plain else "all of them"


def _share(having: list[bool]) -> Judgement:
    return (all(having) if having else None), f"in {sum(having)} of {len(having)} replies"
