"""What must hold before money is touched. Pure: facts in, a refusal or nothing out."""

from __future__ import annotations

from batchcancel.errors import GateRefusedError


def needs_typed_count(*, is_production: bool, yes: bool, has_terminal: bool) -> bool:
    """Tell whether a person has to type the number of invoices before the first request.

    Args:
        is_production: Whether the host that is called is production.
        yes: Whether the caller said ``--yes``.
        has_terminal: Whether there is a terminal to ask on.

    Raises:
        GateRefusedError: Nobody said yes and nobody can be asked.
    """
    if not is_production or yes:
        return False
    if not has_terminal:
        raise GateRefusedError(
            "This would cancel invoices in production, and there is no terminal to confirm it on. "
            "Add --yes if that is what you want."
        )
    return True


def check_typed_count(typed: str, *, expected: int) -> None:
    """Compare what a person typed with the number of invoices.

    Raises:
        GateRefusedError: It is another number, or none.
    """
    if typed.strip().replace(",", "") != str(expected):
        raise GateRefusedError(f"Not confirmed: {expected} was to be typed. Nothing was sent.")
