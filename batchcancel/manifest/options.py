"""How a manifest is to be read: its options, its format, its name in messages."""

from __future__ import annotations

import io
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Final

from msgspec import Struct

from batchcancel.errors import ManifestError
from batchcancel.model import MatchField

STDIN: Final = "-"


class Format(StrEnum):
    """The kinds of manifest."""

    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    TXT = "txt"
    """One id a line: no header, no quoting."""


class ManifestOptions(Struct, frozen=True, kw_only=True):
    """How manifests are read; the same for every file of a run."""

    column: str | None = None
    """The id's column or JSON field; None finds it (design section 3)."""
    format: Format | None = None
    """None goes by the file's name; standard input needs it."""
    encoding: str = "utf-8"
    """A name that Python's codecs know. A byte order mark is removed."""
    keep: tuple[str, ...] = ()
    """Columns to carry into the ledger, under the names given here."""
    needs_usual_column: bool = False
    """Whether the id's column has to have one of the usual names also where it is the only one."""
    match: dict[MatchField, str] = {}
    """By field of the invoice the column that says what it has to be."""
    merchant_column: str | None = None
    """The column that says whose invoice a row is; None if all are the run's own merchant's."""
    own_merchant_id: str | None = None
    """The merchant whom rows need not name, where that column names others."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column besides the id's that is read."""
        merchant = () if self.merchant_column is None else (self.merchant_column,)
        return tuple(dict.fromkeys((*self.keep, *self.match.values(), *merchant)))


_SUFFIXES: Final = {
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".txt": Format.TXT,
}


def display_name(path: str) -> str:
    """Name a manifest for people."""
    return "standard input" if path == STDIN else path


def malformed(name: str, line: int, what: str) -> ManifestError:
    """Build the error for a line that can't be read.

    Args:
        name: The manifest's name, for people.
        line: 1-based line of the file, header and blank lines counted.
        what: What is wrong and what to do, without a full stop.
    """
    return ManifestError(f"{name}, line {line}: {what}.")


def resolve_formats(paths: Sequence[str], options: ManifestOptions) -> list[Format]:
    """Decide each file's format, before any of them is opened.

    Args:
        paths: The manifests; ``-`` is standard input.
        options: As given by the user.

    Returns:
        One format a path, in order.

    Raises:
        ManifestError: The encoding is unknown, standard input stands twice, a format can't be told,
            or columns are asked of a plain list.
    """
    _require_text_encoding(options.encoding)
    if paths.count(STDIN) > 1:
        raise ManifestError("Standard input (-) can be read only once: name it once.")
    formats = [options.format or _format_by_name(path) for path in paths]
    if Format.TXT in formats and (options.column is not None or options.columns):
        raise ManifestError(
            "A txt manifest has one id a line and no columns: leave out --column, --keep, --match and "
            "--merchant-column, or say --format csv."
        )
    return formats


def is_named_by_format(path: str) -> bool:
    """Tell whether a file's name tells its format."""
    return _suffix(path) in _SUFFIXES


def _suffix(path: str) -> str:
    return PurePath(path.lower().removesuffix(".gz")).suffix


def _format_by_name(path: str) -> Format:
    if path == STDIN:
        raise ManifestError("Standard input has no file name: say --format csv, tsv, jsonl or txt.")
    if not is_named_by_format(path):
        if not Path(path).exists():
            raise ManifestError(f"{path}: there is no such file. Check the path.")
        if Path(path).is_dir():
            raise ManifestError(f"{path}: this is a folder. Name the files in it.")
        raise ManifestError(
            f"{path}: the name does not tell the format: say --format csv, tsv, jsonl or txt."
        )
    return _SUFFIXES[_suffix(path)]


def _require_text_encoding(encoding: str) -> None:
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=encoding).close()
    except (LookupError, ValueError) as exc:  # a codec that is none, not for text, or a NUL in its name
        raise ManifestError(
            f"--encoding {encoding!r} is not known: say for example utf-8, utf-16 or cp1252."
        ) from exc
