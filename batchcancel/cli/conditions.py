"""Conditions on the command line: a status, a day, an amount, a currency."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Any, Final

import click

from batchcancel.cli.mistakes import Word

# As in tasks.listing, which takes a while to load, and help has to be quick. A test compares them.
STATUSES: Final = ("DRAFT", "CREATED", "PENDING", "SENT", "PARTIAL", "PAID", "CANCELED")

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_AMOUNT: Final = re.compile(r"[0-9]{1,30}(?:\.[0-9]{1,10})?")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")


class Status(Word):
    """One of the states that the service lists, in any case."""

    def __init__(self) -> None:
        """Take them all."""
        super().__init__(STATUSES)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's
        """Return it in capital letters."""
        return super().convert(str(value).upper(), param, ctx)


def day(text: str) -> date:
    """Read a day, as ``2026-01-31``.

    Raises:
        click.BadParameter: It is none.
    """
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass  # there is no such day, which is said below
    raise click.BadParameter(f"{text!r} is no day. Write it as 2026-01-31.")


def amount(text: str) -> Decimal:
    """Read an amount of money, as ``1234.50``, exactly as it is written.

    Raises:
        click.BadParameter: It is none.
    """
    if not _AMOUNT.fullmatch(text):
        raise click.BadParameter(f"{text!r} is no amount. Write it as 1234.50, without a sign or a comma.")
    return Decimal(text)


def currency(text: str) -> str:
    """Read a currency's three letters, in any case.

    Raises:
        click.BadParameter: It is none.
    """
    code = text.upper()
    if not _CURRENCY.fullmatch(code):
        raise click.BadParameter(f"{text!r} is no currency. Write its three letters, such as USD.")
    return code
