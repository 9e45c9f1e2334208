"""What a reconciliation came to: tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from batchcancel.job.course import Ending
from batchcancel.model import Reason, RunState
from batchcancel.report.summary import count_invoices, mask
from batchcancel.report.text import show_sum
from batchcancel.report.words import aligned, ascii_only, show_duration
from batchcancel.tasks.reconcile.account import Account, Kind
from batchcancel.tasks.reconcile.comparison import Mark, Note
from batchcancel.tasks.reconcile.reconciliation import Census
from batchcancel.tasks.reconcile.sample import Sample, least_found

_CURRENCIES_SHOWN: Final = 30
_NAMES: Final = {
    Mark.SAME: "same",
    Mark.DIFFERENT: "different",
    Mark.MISSING: "missing",
    Mark.UNREAD: "unread",
}
_MEANINGS: Final = {
    Mark.SAME: "as the ledger says",
    Mark.DIFFERENT: "different",
    Mark.MISSING: "not known to the service",
    Mark.UNREAD: "could not be read",
}
_REMARKS: Final = {
    Note.PAID_SINCE: "paid in full since, as payments do",
    Note.RUN_AGAIN: "the ledger has no answer: run again settles it",
    Note.APPEARED: "it is there by now: run --retry-errors all asks again",
    Note.AMOUNT: "another amount or currency",
    Note.NOT_ASKED: "no id that may be sent: no run wrote this row",
}


class Reconciled(Struct, frozen=True, kw_only=True):
    """A reconciliation at its end."""

    ledger: str
    env: str
    host: str
    merchant_id: str
    is_live: bool
    """Whether a run was writing to the ledger."""
    ending: Ending
    census: Census
    sample: Sample | None
    account: Account
    differences: str | None
    """The file of differences, if one was written."""
    duration_s: float

    @property
    def not_reached(self) -> int:
        """Invoices that were to be asked about and were not, because it stopped."""
        return self.census.in_sample + self.census.unfit - self.account.compared

    @property
    def most_unseen(self) -> int | None:
        """With 95 % confidence fewer invoices than this differ; None where nothing can be said.

        Only of a sample in which every invoice was read, none differs, and which is not the whole.
        """
        size, of = self.census.in_sample, self.census.to_ask
        is_clean = not self.account.findings and not self.not_reached
        return least_found(size, of=of) if is_clean and 0 < size < of else None


def reconciled_json(one: Reconciled, *, exit_code: int) -> bytes:
    """Write it as one JSON object.

    Keys: ``ledger env host merchant_id live state why invoices not_asked to_ask sample compared not_reached
    marks kinds amounts_canceled without_amount differences duration_s exit_code``. ``marks`` always has
    ``same different missing unread``. ``kinds`` lists ``mark ledger service note invoices``. ``sample`` is
    null, or has ``percent seed size fewer_than_differ`` (with 95 % confidence; null where nothing can be
    said). ``amounts_canceled`` has by currency the decimal strings ``ledger`` and ``service``, where they
    differ.
    """
    account, census, sample = one.account, one.census, one.sample
    document: dict[str, Any] = {
        "ledger": ascii_only(one.ledger),
        "env": one.env,
        "host": one.host,
        "merchant_id": mask(one.merchant_id),
        "live": one.is_live,
        "state": one.ending.state,
        "why": one.ending.why,
        "invoices": census.invoices,
        "not_asked": census.invalid,
        "to_ask": census.to_ask,
        "sample": None
        if sample is None
        else {
            "percent": sample.percent,
            "seed": sample.seed,
            "size": census.in_sample,
            "fewer_than_differ": one.most_unseen,
        },
        "compared": account.compared,
        "not_reached": one.not_reached,
        "marks": {name: account.count(mark) for mark, name in _NAMES.items()},
        "kinds": [
            {
                "mark": kind.mark,
                "ledger": kind.ledger,
                "service": kind.service,
                "note": kind.note,
                "invoices": count,
            }
            for kind, count in _sorted(account)
        ],
        "amounts_canceled": {
            ascii_only(currency): {"ledger": f"{money.ledger:f}", "service": f"{money.service:f}"}
            for currency, money in account.differing_money.items()
        },
        "without_amount": account.without_amount,
        "differences": one.differences,
        "duration_s": one.duration_s,
        "exit_code": exit_code,
    }
    return msgspec.json.encode(document)


def reconciled_text(one: Reconciled) -> str:
    """Write it as plain text, ending with a newline: ASCII whatever ledger and service say."""
    return "\n".join(_lines(one)) + "\n"


def _lines(one: Reconciled) -> Iterator[str]:
    account, census = one.account, one.census
    yield _headline(one)
    if account.kinds:
        yield ""
        yield from aligned(list(_table(account)), right=frozenset({3}))
    yield ""
    yield from (f"  {line}" for line in _counts(one))
    if account.differing_money:
        yield ""
        yield "  amount canceled, where the two differ"
        yield from aligned(list(_money(account)), right=frozenset({1, 2, 3}))
        if more := len(account.differing_money) - _CURRENCIES_SHOWN:
            yield from [f"  and {more:,} more currencies"] * (more > 0)
    if account.differing_money and account.without_amount:
        yield f"  In no sum, since the ledger has no amount: {count_invoices(account.without_amount)}."
    if one.sample is not None:
        yield ""
        yield from (f"  {line}" for line in _confidence(one))
    yield ""
    if one.differences is not None:
        yield f"  differences  {ascii_only(one.differences)}"
    yield f"  ledger       {ascii_only(one.ledger)}"
    seconds = one.duration_s
    rate = f", {(account.compared - census.unfit) / seconds:,.1f} look-ups a second" if seconds >= 1 else ""
    yield f"  time         {show_duration(seconds)}{rate}"


def _headline(one: Reconciled) -> str:
    account = one.account
    shown = [mark for mark in Mark if mark is Mark.SAME or account.count(mark)]
    counts = ", ".join(f"{account.count(mark):,} {_MEANINGS[mark]}" for mark in shown)
    left = f"{count_invoices(one.not_reached)} not reached"
    match one.ending.state:
        case RunState.COMPLETE if not account.findings:
            return f"No difference: {counts}."
        case RunState.COMPLETE:
            return f"Differences: {counts}."
        case RunState.STOPPED if one.ending.as_asked:
            return f"Stopped where asked: {one.ending.why} {left}; {counts}."
        case RunState.STOPPED:
            return f"Stopped for safety, {left}; {counts}."
        case RunState.INTERRUPTED:
            return f"Interrupted ({one.ending.why}), {left}; {counts}."


def _table(account: Account) -> Iterator[tuple[str, str, str, str, str]]:
    yield "mark", "ledger", "service", "invoices", ""
    for kind, count in _sorted(account):
        yield (
            kind.mark,
            kind.ledger,
            kind.service,
            f"{count:,}",
            _REMARKS.get(kind.note, "") if kind.note else "",
        )


def _sorted(account: Account) -> list[tuple[Kind, int]]:
    marks, reasons = list(Mark), list(Reason)
    return sorted(
        account.kinds.items(),
        key=lambda item: (
            marks.index(item[0].mark),
            reasons.index(item[0].ledger),
            item[0].service,
            item[0].note or "",
        ),
    )


def _counts(one: Reconciled) -> Iterator[str]:
    census = one.census
    yield f"{count_invoices(census.invoices)} in the ledger"
    if census.invalid:
        yield f"{census.invalid:,} of them without a valid id: not asked"
    if one.sample is not None:
        yield (
            f"{census.in_sample:,} of {census.to_ask:,} in the sample "
            f"(--sample {one.sample.percent:g}% --seed {one.sample.seed} draws the same one)"
        )


def _confidence(one: Reconciled) -> Iterator[str]:
    """Say what the sample tells of the whole, and nothing that it does not tell."""
    census, bound = one.census, one.most_unseen
    if one.not_reached:
        yield "Of the sample not all was reached, so it tells nothing of the rest."
    elif bound is not None:
        share = 100 * bound / census.to_ask
        yield (
            f"0 differences in {census.in_sample:,} of {census.to_ask:,}: with 95 % confidence fewer than "
            f"{bound:,} of all ({share:.2g} %) differ."
        )
    elif one.account.findings:
        yield "The sample shows differences: compare everything without --sample."


def _money(account: Account) -> Iterator[list[str]]:
    yield ["currency", "ledger", "service", "difference"]
    for currency, money in list(account.differing_money.items())[:_CURRENCIES_SHOWN]:
        yield [
            ascii_only(currency)[:12],
            show_sum(money.ledger),
            show_sum(money.service),
            f"{money.service - money.ledger:+,f}",
        ]
