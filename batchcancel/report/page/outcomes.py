"""What became of the invoices and of the money, as the page shows it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from batchcancel.model import Reason
from batchcancel.report.charts import Series, shares
from batchcancel.report.figures import Figures, Money
from batchcancel.report.page.pieces import Card, Chart, Part, Table, markup
from batchcancel.report.text import show_sum, without_amount
from batchcancel.report.words import printable

_CURRENCIES_SHOWN: Final = 50
_CURRENCIES_DRAWN: Final = 8
_MEANINGS: Final = {
    Reason.CANCELED: "canceled by these ledgers' runs",
    Reason.ALREADY_CANCELED: "canceled before, or nothing shows that these runs did it",
    Reason.PAID: "paid in full: it can't be canceled",
    Reason.PARTIAL: "paid in part: it can't be canceled",
    Reason.NOT_FOUND: "the service knows no such invoice",
    Reason.INVALID_ID: "no id that may be sent; nothing was sent",
    Reason.MISMATCH: "not what the manifest says of it; nothing was canceled",
    Reason.PENDING: "the payer is paying right now",
    Reason.REJECTED: "refused twice although its status is open",
    Reason.REFUSED: "this key may not cancel or read it",
    Reason.UNKNOWN_STATUS: "a status that is not documented",
    Reason.RATE_LIMITED: "refused for its rate until its time was up",
    Reason.NETWORK: "not reached",
    Reason.SERVER_ERROR: "not served",
    Reason.UNKNOWN: "the service may have acted: the next run looks first",
}


def _kinds(figures: Figures) -> list[tuple[Part, int, str]]:
    """Return what invoices can have become, their numbers, and a note."""
    reasons = figures.reasons
    return [
        (Part("canceled", "canceled"), reasons[Reason.CANCELED], "by these runs"),
        (
            Part("canceled before", "before"),
            reasons[Reason.ALREADY_CANCELED],
            "not shown to be ours",
        ),
        (Part("already paid", "paid"), reasons[Reason.PAID], "left as they are"),
        (Part("partially paid", "partial"), reasons[Reason.PARTIAL], "left as they are"),
        (Part("final errors", "final"), figures.final_errors, "for a person to look at"),
        (Part("open errors", "open"), figures.open_errors, "the next run asks again"),
    ]


def cards(figures: Figures) -> tuple[Card, ...]:
    """Return the numbers that are read first, those that are zero included."""
    return tuple(
        Card(name=part.name, count=f"{count:,}", note=note, css=part.css)
        for part, count, note in _kinds(figures)
    )


def outcome_chart(figures: Figures) -> Chart:
    """Draw what share of the invoices became what."""
    kinds = [(part, count) for part, count, _ in _kinds(figures) if count]
    percent = [100 * count / figures.invoices for _, count in kinds]
    series = [
        Series(name=part.name, css=part.css, values=(share,))
        for (part, _), share in zip(kinds, percent, strict=True)
    ]
    said = ", ".join(f"{part.name} {_share(one)}" for (part, _), one in zip(kinds, percent, strict=True))
    return Chart(
        key="outcome-chart",
        title="Share of the invoices.",
        text=f"{said}.",
        drawing=markup(shares([""], series)),
        legend=tuple(part for part, _ in kinds),
    )


def _share(percent: float) -> str:
    """Write a share so that a small one is not taken for none, nor a large one for all."""
    if percent < 0.1:
        return "under 0.1\u00a0%"
    if 99.9 < percent < 100:
        return "over 99.9\u00a0%"
    return f"{percent:.1f}\u00a0%"


def money_table(figures: Figures) -> Table:
    """Return the sums by currency."""
    shown = sorted(figures.money.items())[:_CURRENCIES_SHOWN]
    return Table(
        caption="Sums of the invoices' total amounts, as the service said them.",
        header=("Currency", *(kind.capitalize() for kind in Money)),
        rows=tuple(
            (printable(currency, most=12) or "(none)", *(_sum(sums[kind]) for kind in Money))
            for currency, sums in shown
        ),
        right=frozenset(range(1, len(Money) + 1)),
    )


def _sum(total: Decimal) -> str:
    return show_sum(total) if total else "\u2013"


def money_notes(figures: Figures) -> Iterator[str]:
    """Yield what the sums leave out."""
    if (more := len(figures.money) - _CURRENCIES_SHOWN) > 0:
        yield f"And {more:,} more currencies."
    yield from without_amount(figures)


def money_chart(figures: Figures) -> Chart | None:
    """Draw each currency's money as shares: sums of different currencies have no common scale."""
    kinds = (
        (Money.CANCELED, "canceled"),
        (Money.CANCELED_BEFORE, "before"),
        (Money.ALREADY_PAID, "paid"),
        (Money.PARTIALLY_PAID, "partial"),
        (Money.OPEN, "open"),
    )
    totals = {
        currency: sum((sums[kind] for kind, _ in kinds), Decimal(0))
        for currency, sums in sorted(figures.money.items())
        if all(total >= 0 for total in sums.values())
    }
    drawn = [currency for currency, total in totals.items() if total > 0][:_CURRENCIES_DRAWN]
    if not drawn:
        return None
    series = [
        Series(
            name=kind,
            css=css,
            values=tuple(float(100 * figures.money[one][kind] / totals[one]) for one in drawn),
        )
        for kind, css in kinds
    ]
    said = "; ".join(
        f"{printable(one, most=12)}: "
        + ", ".join(f"{part.name} {_share(part.values[at])}" for part in series if part.values[at])
        for at, one in enumerate(drawn)
    )
    return Chart(
        key="money-chart",
        title="Share of each currency's money.",
        text=f"{said}.",
        drawing=markup(shares([printable(one, most=6) for one in drawn], series)),
        legend=tuple(Part(one.name, one.css) for one in series if any(one.values)),
    )


def reasons_table(figures: Figures) -> Table:
    """Return the reasons, the most frequent first, each with what it means and some invoices."""
    return Table(
        caption="Why, how often, and the first invoices of each.",
        header=("Reason", "Outcome", "Invoices", "Share", "Meaning", "Asked again", "For example"),
        rows=tuple(
            (
                reason.replace("_", " "),
                reason.outcome.replace("_", " "),
                f"{count:,}",
                _share(100 * count / figures.invoices),
                _MEANINGS[reason],
                "no" if reason.is_final else "yes",
                ", ".join(_example(one.invoice_id, one.merchant_id) for one in figures.examples[reason]),
            )
            for reason, count in figures.reasons.most_common()
        ),
        right=frozenset({2, 3}),
        texts=frozenset({4, 6}),
    )


def _example(invoice_id: str, merchant_id: str | None) -> str:
    shown = printable(invoice_id, most=64) or "(empty)"
    return shown if merchant_id is None else f"{shown} ({printable(merchant_id, most=40)})"
