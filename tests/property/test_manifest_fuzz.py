"""Whatever bytes a manifest holds, it is read or refused with a ManifestError."""

from __future__ import annotations

import asyncio
import gzip
import tempfile
import warnings
from encodings.aliases import aliases
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchcancel.errors import ManifestError
from batchcancel.manifest import Check, Format, ManifestOptions, open_manifest
from batchcancel.manifest.ids import is_valid_id, recorded_text
from batchcancel.model import ManifestRow

PIECES = [
    b"id",
    b"1",
    b"\n",
    b"\r",
    b'"',
    b",",
    b";",
    b"{",
    b"}",
    b":",
    b"[",
    b'{"id":',
    b'"\\ud800"',
    b"\xff",
]
contents = st.binary(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)


async def read_all(content: bytes, options: ManifestOptions) -> tuple[Check, list[ManifestRow]]:
    """Check and read a manifest of these bytes."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        folder = Path(file.name).parent
        async with open_manifest([file.name], options=options, spool_dir=folder) as manifest:
            check = await manifest.check()
            return check, [row async for row in manifest.rows()]


def assert_readable_or_refused(content: bytes, options: ManifestOptions) -> None:
    """Read; what comes must add up, and be safe to store."""
    try:
        check, rows = asyncio.run(read_all(content, options))
    except ManifestError:
        return
    assert check.rows == len(rows) == check.distinct + check.invalid + check.duplicates
    first = [row for row in rows if row.duplicate_of is None]
    assert len({row.invoice_id for row in first}) == len(first)
    assert check.open == check.distinct == sum(row.valid for row in first)
    for row in rows:
        assert row.invoice_id.isprintable()
        assert is_valid_id(row.invoice_id) if row.valid else len(row.invoice_id) <= 256
        for value in (row.keep or {}).values():
            value.encode()


@pytest.mark.parametrize("format_", list(Format))
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252", "utf-7"])
@given(content=contents)
@example(content=b'{"id":"\\udc00"}\n')
@example(content=b'{"id":1,"x":"\\ud800"}\n')
@settings(max_examples=60)
def test_any_bytes_are_read_or_refused(format_: Format, encoding: str, content: bytes) -> None:
    """Nothing but ManifestError comes out of a file, whatever is in it."""
    assert_readable_or_refused(content, ManifestOptions(format=format_, encoding=encoding))


@given(
    content=contents, cut=st.integers(min_value=0, max_value=40), flip=st.integers(min_value=0, max_value=39)
)
@settings(max_examples=150)
def test_any_damage_to_gzip_is_read_or_refused(content: bytes, cut: int, flip: int) -> None:
    """A compressed file that is cut or has a flipped byte is refused in words."""
    packed = bytearray(gzip.compress(content))
    packed[flip % len(packed)] ^= 0x55
    assert_readable_or_refused(bytes(packed[: len(packed) - cut]), ManifestOptions(format=Format.TXT))


@pytest.mark.parametrize("format_", list(Format))
@given(
    packed=st.lists(
        st.binary(max_size=60) | contents.map(gzip.compress) | st.just(b"\x1f\x8b\x08") | st.just(bytes(20)),
        max_size=4,
    ).map(b"".join)
)
@example(packed=gzip.compress(b"id\n1\n") + b"garbage")
@example(packed=gzip.compress(b"id\n1\n") * 3)
@example(packed=gzip.compress(gzip.compress(b"id\n1\n")))
@settings(max_examples=60)
def test_any_bytes_behind_the_gzip_magic_are_read_or_refused(format_: Format, packed: bytes) -> None:
    """Members without end, garbage between and behind them, in each format."""
    assert_readable_or_refused(b"\x1f\x8b" + packed, ManifestOptions(format=format_))
    assert_readable_or_refused(packed, ManifestOptions(format=format_))


@given(
    encoding=st.sampled_from(sorted(set(aliases.values()))), content=contents, format_=st.sampled_from(Format)
)
@settings(max_examples=300)
def test_any_codec_reads_or_refuses(encoding: str, content: bytes, format_: Format) -> None:
    """Whatever Python takes for a codec's name, also one that is not for text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some codecs warn of escapes that they don't know
        assert_readable_or_refused(content, ManifestOptions(format=format_, encoding=encoding))


@given(encoding=st.text(max_size=12))
def test_any_name_of_a_codec_is_known_or_refused(encoding: str) -> None:
    """No text after --encoding is a crash."""
    assert_readable_or_refused(b"id\n1\n", ManifestOptions(format=Format.CSV, encoding=encoding))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"[" * 100_000, id="deep lists"),
        pytest.param(b'{"a":' * 100_000, id="deep objects"),
        pytest.param(b"[" * 5000 + b"]" * 5000, id="closed again"),
        pytest.param(b"9" * 100_000, id="an endless integer"),
        pytest.param(b"-" + b"0" * 5000, id="an endless zero"),
        pytest.param(b"1." + b"0" * 5000 + b"e99999", id="an endless decimal"),
        pytest.param(b'"' + b"\\u0000" * 5000 + b'"', id="an endless text of controls"),
    ],
)
@pytest.mark.parametrize("line", [b'{"id":%b}', b'{"id":1,"x":%b}', b'{"id":"\\u0031","x":%b,"i\\u0064":2}'])
def test_json_bombs_are_read_or_refused(line: bytes, value: bytes) -> None:
    """Depth and length, in the id and beside it; where no object is too deep, it is no id either."""
    content = line % value + b"\n"
    for keep in ((), ("x",)) if b'"x"' in line else ((),):
        assert_readable_or_refused(content, ManifestOptions(format=Format.JSONL, column="id", keep=keep))


@given(
    content=contents,
    column=st.none() | st.sampled_from(["id", "1", "", "\x00"]) | st.text(max_size=4),
    keep=st.lists(st.sampled_from(["id", "1", ""]) | st.text(max_size=4), max_size=2),
    format_=st.sampled_from(Format),
)
@settings(max_examples=200)
def test_any_choice_of_columns_is_read_or_refused(
    content: bytes, column: str | None, keep: list[str], format_: Format
) -> None:
    """No name of a column is a crash, whether it is there or not."""
    options = ManifestOptions(format=format_, column=column, keep=tuple(keep))
    assert_readable_or_refused(content, options)


@given(value=st.text(max_size=20), kept=st.text(max_size=20))
@settings(max_examples=100)
def test_any_text_survives_quoting(value: str, kept: str) -> None:
    """A well-formed CSV file gives back the id's text, as an id or as recorded text."""
    quoted = '"' + value.replace('"', '""') + '"'
    kept_quoted = '"' + kept.replace('"', '""') + '"'
    content = f"id,kept,end\n{quoted},{kept_quoted},x\n".encode()
    _, rows = asyncio.run(read_all(content, ManifestOptions(format=Format.CSV, keep=("kept",))))
    text = value.strip()
    assert [row.invoice_id for row in rows] == [text if is_valid_id(text) else recorded_text(text)]
    assert rows[0].valid == is_valid_id(text)
    assert rows[0].keep == {"kept": kept.strip()}
