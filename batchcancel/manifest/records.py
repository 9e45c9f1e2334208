"""Lines to records: CSV and TSV tables, JSON objects, plain lists."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from batchcancel.errors import ManifestError
from batchcancel.manifest.columns import find_column, find_id_column, is_usual, refuse_suspect_header
from batchcancel.manifest.ids import is_merchant_id, is_valid_id, recorded_text
from batchcancel.manifest.options import Format, ManifestOptions, malformed

_MAX_CELL_LENGTH: Final = 4096
"""Characters of a cell besides the id: more would bloat the ledger, and a cut one would not be the truth."""

_INTEGER: Final = re.compile(rb"-?[0-9]+")
_OBJECT: Final = msgspec.json.Decoder(dict[str, Raw])
_TEXT: Final = msgspec.json.Decoder(str)
_NULL: Final = Raw(b"null")


class Record(Struct, frozen=True):
    """What one data row says, not yet numbered."""

    text: str
    """The id, or the recorded text of what is none."""
    valid: bool
    cells: dict[str, str] | None
    """The other columns that were asked for, trimmed; None if none was."""
    merchant_id: str | None = None
    """Whose invoice it is; None if the run's own merchant's."""


def read_records(
    lines: Iterator[str], format_: Format, options: ManifestOptions, *, name: str
) -> Iterator[Record]:
    """Yield a manifest's data rows in order; header and blank rows are no records.

    Args:
        lines: Every line of the file, ends included.
        format_: The file's format.
        options: Column, and which other columns to read.
        name: The file's name, for people.

    Raises:
        ManifestError: A line is malformed, or the id's column is not to be told; it names the line.
    """
    match format_:
        case Format.CSV:
            return _table(lines, ",", options, name=name)
        case Format.TSV:
            return _table(lines, "\t", options, name=name)
        case Format.JSONL:
            return _objects(lines, options, name=name)
        case Format.TXT:
            return _plain_list(lines)


def _plain_list(lines: Iterator[str]) -> Iterator[Record]:
    for line in lines:
        if text := line.strip():
            yield _record(text, None)


def _table(lines: Iterator[str], delimiter: str, options: ManifestOptions, *, name: str) -> Iterator[Record]:
    rows = _table_rows(lines, delimiter, name=name)
    first = next(rows, None)
    if first is None:
        return
    line, header = first
    where = f"{name}, line {line}"
    if options.column is None and not options.needs_usual_column:
        refuse_suspect_header(header, delimiter=delimiter, where=where)
    id_column = find_id_column(header, options.column, where=where, needs_usual=options.needs_usual_column)
    others = [(column, find_column(header, column, where=where)) for column in options.columns]
    _refuse_id_for_merchant(others, id_column, options, where=where)
    width = len(header)
    for line, cells in rows:
        if len(cells) <= id_column:
            raise malformed(name, line, f"the row ends before the id's column ({id_column + 1} of {width})")
        if len(cells) > width and any(map(str.strip, cells[width:])):
            # An unquoted comma shifts every cell after it, the id too.
            raise malformed(
                name,
                line,
                f"{len(cells)} cells under {width} headers, the id may have moved: quote the cells",
            )
        read = None
        merchant_id = None
        if others:
            values = {column: cells[at].strip() if at < len(cells) else "" for column, at in others}
            read = _checked_cells(values, name=name, line=line)
            merchant_id = _merchant_id(
                values.get(options.merchant_column or ""), options, name=name, line=line
            )
        yield _record(cells[id_column].strip(), read, merchant_id)


def _table_rows(lines: Iterator[str], delimiter: str, *, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank with the line on which it begins."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as exc:
        raise malformed(name, line, f"broken quoting or an endless cell ({exc})") from exc


def _objects(lines: Iterator[str], options: ManifestOptions, *, name: str) -> Iterator[Record]:
    id_key: str | None = None
    merchant_key: str | None = None
    others: list[tuple[str, str]] = []
    decisive: list[tuple[str, str]] = []  # keys that say which invoice it is, and as JSON spells them
    for line, text in enumerate(lines, start=1):
        if text.isspace() or not text:
            continue
        try:
            fields = _OBJECT.decode(text)
            if id_key is None:
                id_key, others = _choose_keys(list(fields), options, where=f"{name}, line {line}")
                merchant_key = dict(others).get(options.merchant_column or "")
                decisive = [
                    (key, msgspec.json.encode(key).decode())
                    for key in (id_key, merchant_key)
                    if key is not None
                ]
            for key, spelled in decisive:
                if (text.count(spelled) > 1 or "\\u" in text) and _is_repeated(text, key):
                    raise malformed(name, line, f"the field {recorded_text(key)!r} stands there twice")
            if id_key not in fields:
                raise malformed(name, line, f"the object has no field {recorded_text(id_key)!r}")
            if options.column is None and any(is_usual(key) and key != id_key for key in fields):
                raise malformed(name, line, "several fields may hold the id; say which with --column")
            values = {column: _cell(fields[key]) if key in fields else "" for column, key in others}
            cells = _checked_cells(values, name=name, line=line)
            merchant = None if merchant_key is None else _text_or_integer(fields.get(merchant_key, _NULL))
            merchant_id = _merchant_id(merchant, options, name=name, line=line)
            record = _json_record(fields[id_key], cells, merchant_id)
        except (ValueError, RecursionError) as exc:
            raise malformed(name, line, f"not one JSON object ({exc})") from exc
        yield record


def _choose_keys(
    keys: Sequence[str], options: ManifestOptions, *, where: str
) -> tuple[str, list[tuple[str, str]]]:
    id_key = keys[find_id_column(keys, options.column, where=where, needs_usual=options.needs_usual_column)]
    others = [(column, keys[find_column(keys, column, where=where)]) for column in options.columns]
    _refuse_id_for_merchant(others, id_key, options, where=where)
    return id_key, others


def _refuse_id_for_merchant(
    others: Sequence[tuple[str, int | str]], id_column: int | str, options: ManifestOptions, *, where: str
) -> None:
    """Refuse the id's column as the merchant's: every row would be that of a merchant of its own."""
    if (options.merchant_column, id_column) in others:
        raise ManifestError(
            f"{where}: {options.merchant_column!r} is the id's column, and can't say whose invoice a row is. "
            "Name another with --merchant-column."
        )


def _is_repeated(text: str, key: str) -> bool:
    """Tell whether the outermost object has a key twice; the decoder would take the last silently."""
    top: list[str] = json.loads(
        text, object_pairs_hook=lambda pairs: [name for name, _ in pairs], parse_int=str, parse_float=str
    )
    return top.count(key) > 1


def _json_record(raw: Raw, cells: dict[str, str] | None, merchant_id: str | None) -> Record:
    text = _text_or_integer(raw)
    if text is not None:
        return _record(text, cells, merchant_id)
    # true or 1E5 would pass for ids, but the file does not say that they are text.
    text = recorded_text(bytes(raw).decode().strip())
    return Record(text, valid=False, cells=cells, merchant_id=merchant_id)


def _text_or_integer(raw: Raw) -> str | None:
    """Return a JSON text, trimmed, or the digits of an integer; None for any other value."""
    literal = bytes(raw)
    if literal.startswith(b'"'):
        return _TEXT.decode(literal).strip()
    return literal.decode() if _INTEGER.fullmatch(literal) else None


def _cell(raw: Raw) -> str:
    literal = bytes(raw)
    if literal.startswith(b'"'):
        return _TEXT.decode(literal).strip()
    return "" if literal == b"null" else literal.decode().strip()


def _checked_cells(cells: dict[str, str], *, name: str, line: int) -> dict[str, str] | None:
    for column, value in cells.items():
        if len(value) > _MAX_CELL_LENGTH:
            raise malformed(
                name, line, f"{column!r} is longer than {_MAX_CELL_LENGTH} characters and can't be kept"
            )
    return cells or None


def _merchant_id(text: str | None, options: ManifestOptions, *, name: str, line: int) -> str | None:
    """Return whose invoice a row is; None if it is the run's own merchant's.

    A row that does not say it properly is malformed: nobody may guess whose money it is about.
    """
    if options.merchant_column is None:
        return None
    text = text or ""
    if not is_merchant_id(text):
        raise malformed(
            name,
            line,
            f"{recorded_text(text)!r} in {options.merchant_column!r} is no merchant id: it takes 1 to 128 "
            "printable ASCII characters, no spaces",
        )
    return None if text == options.own_merchant_id else text


def _record(text: str, cells: dict[str, str] | None, merchant_id: str | None = None) -> Record:
    if is_valid_id(text):
        return Record(text, valid=True, cells=cells, merchant_id=merchant_id)
    return Record(recorded_text(text), valid=False, cells=cells, merchant_id=merchant_id)
