"""Which column holds the id: found strictly, because the wrong column cancels the wrong invoices."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

from batchcancel.errors import ManifestError
from batchcancel.manifest.ids import recorded_text

_ID_NAMES: Final = frozenset({"invoice_id", "invoiceid", "invoice_number", "invoicenumber", "id"})
_SEPARATORS: Final = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}
_MAX_NAMES_SHOWN: Final = 20


def find_id_column(names: Sequence[str], wanted: str | None, *, where: str, needs_usual: bool = False) -> int:
    """Find the id's column.

    Args:
        names: The header's cells, or the first object's keys.
        wanted: The name that the user gave; None takes the only usual name (``invoice_id``,
            ``invoiceId``, ``invoice_number``, ``invoiceNumber``, ``id``, any case), else the only
            column.
        where: File and line, to begin a message with.
        needs_usual: Whether the only column has to have a usual name too.

    Returns:
        The column's index in ``names``.

    Raises:
        ManifestError: No column fits, or more than one does.
    """
    if wanted is not None:
        return find_column(names, wanted, where=where)
    usual = [index for index, name in enumerate(names) if is_usual(name)]
    if len(usual) == 1:
        return usual[0]
    if usual:
        raise ManifestError(
            f"{where}: several columns may hold the id: {_listed([names[index] for index in usual])}. "
            + ("Rename all but one." if needs_usual else "Say which with --column.")
        )
    if len(names) == 1 and not needs_usual:
        return 0
    raise ManifestError(
        f"{where}: no column is called invoice_id, invoice_number or id. "
        + ("Rename one" if needs_usual else "Say which it is with --column")
        + f"; there are: {_listed(names)}."
    )


def is_usual(name: str) -> bool:
    """Tell whether a column's name is one of the usual names of the id."""
    return name.strip().casefold() in _ID_NAMES


def find_column(names: Sequence[str], wanted: str, *, where: str) -> int:
    """Find a column by its name: exactly, else in any case, and only if it is the only one.

    Args:
        names: The header's cells, or the first object's keys.
        wanted: The name that the user gave.
        where: File and line, to begin a message with.

    Returns:
        The column's index in ``names``.

    Raises:
        ManifestError: No column has that name, or more than one has.
    """
    trimmed = [name.strip() for name in names]
    exact = wanted.strip()
    folded = [name.casefold() for name in trimmed]
    matches = [index for index, name in enumerate(trimmed) if name == exact] or [
        index for index, name in enumerate(folded) if name == exact.casefold()
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ManifestError(
            f"{where}: {len(matches)} columns are called {exact!r}. Rename all but one, or name another."
        )
    nearest = difflib.get_close_matches(exact.casefold(), folded, n=1)
    hint = f" Did you mean {recorded_text(trimmed[folded.index(nearest[0])])!r}?" if nearest else ""
    raise ManifestError(f"{where}: no column is called {exact!r}.{hint} There are: {_listed(names)}.")


def refuse_suspect_header(names: Sequence[str], *, delimiter: str, where: str) -> None:
    """Refuse a lone header cell that is rather an id, or a whole row in another dialect.

    To take a headerless list's first id for a header would lose that invoice silently.

    Args:
        names: The header's cells.
        delimiter: What separates cells in this file.
        where: File and line, to begin a message with.

    Raises:
        ManifestError: The only cell holds another separator, or a digit, and is no usual name.
    """
    if len(names) != 1 or is_usual(names[0]):
        return
    name = names[0]
    for separator, word in _SEPARATORS.items():
        if separator != delimiter and separator in name:
            raise ManifestError(
                f"{where}: the header is one column that holds {word}: {recorded_text(name)!r}. "
                "Export the file with commas (or tabs and --format tsv), or say --column."
            )
    if any(char.isdigit() for char in name):
        raise ManifestError(
            f"{where}: {recorded_text(name.strip())!r} looks like an id, not a column's name: "
            "use --format txt for a list without a header, or --column."
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(recorded_text(name.strip()) or "(no name)" for name in names[:_MAX_NAMES_SHOWN])
    more = len(names) - _MAX_NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown or "none"
