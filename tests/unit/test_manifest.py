"""Manifests of every format: what is read, what is counted, what is refused."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from batchcancel.buckets import Buckets
from batchcancel.errors import ManifestError
from batchcancel.manifest import Check, Format, ManifestOptions, open_manifest, read_excluded_ids
from batchcancel.model import REASONS, ManifestRow, MatchField, Reason, Standing, key_digest

DEFAULTS = ManifestOptions()


async def read_all(*paths: Path, options: ManifestOptions = DEFAULTS) -> tuple[Check, list[ManifestRow]]:
    """Check the manifests, then read their rows."""
    names = [str(path) for path in paths]
    async with open_manifest(names, options=options, spool_dir=paths[0].parent) as manifest:
        check = await manifest.check()
        return check, [row async for row in manifest.rows()]


def standing_of(reason: Reason | None, is_excluded: bool) -> Standing:  # noqa: FBT001 - a StandingOf
    """Tell where an invoice stands; simpler than the job does."""
    if reason is None:
        return Standing.EXCLUDED if is_excluded else Standing.TO_ASK
    return {Reason.UNKNOWN: Standing.TO_LOOK_UP, Reason.NETWORK: Standing.HELD_BACK}.get(
        reason, Standing.SETTLED
    )


def remembered(folder: Path, *results: tuple[str, Reason]) -> Buckets:
    """Remember results by the keys of their invoices, in order."""
    reasons = Buckets(folder)
    for key, reason in results:
        reasons.add(key_digest(key), REASONS.index(reason))
    return reasons


def written(folder: Path, name: str, content: str | bytes) -> Path:
    """Write a manifest and return its path."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def ids(rows: list[ManifestRow]) -> list[str]:
    """List the ids, an exclamation mark before invalid ones."""
    return [row.invoice_id if row.valid else f"!{row.invoice_id}" for row in rows]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        pytest.param("m.csv", "invoice_id,name\n1,a\n2,b\n", ["1", "2"], id="csv"),
        pytest.param("m.CSV", "name,Id\na,1\n", ["1"], id="suffix-in-capitals"),
        pytest.param("m.csv", "\ufeffid\r\n1\r\n\r\n2\r\n", ["1", "2"], id="bom-crlf-blank-line"),
        pytest.param("m.csv", "id\r1\r2\r", ["1", "2"], id="lone-carriage-returns"),
        pytest.param("m.csv", '\n"id","n"\n"1","a, b"\n"2","a\nb"\n3,', ["1", "2", "3"], id="quoted"),
        pytest.param("m.csv", "id,n\n ,\t\n\xa01\xa0,\n", ["1"], id="blank-cells-and-no-break-space"),
        pytest.param("m.csv", "id,n\n1,a,,\n2\n", ["1", "2"], id="blank-surplus-and-short-row"),
        pytest.param("m.csv", "id,n\n,a\n00123,b\n123.0,c\n", ["!", "00123", "!123.0"], id="empty-id-cell"),
        pytest.param("m.csv", "", [], id="empty"),
        pytest.param("m.csv", "id,n\n", [], id="header-only"),
        pytest.param("m.tsv", 'n\tid\na,b\t1\n"c\td"\t2\n', ["1", "2"], id="tsv"),
        pytest.param("m.txt", "\ufeff1\r\n\n 2 \n=3\na,b", ["1", "2", "!=3", "!a,b"], id="txt"),
        pytest.param("m.txt", "", [], id="empty-txt"),
        pytest.param("m.jsonl", '{"id":"1"}\n \n{"id":2,"x":null}\n', ["1", "2"], id="jsonl"),
        pytest.param("m.ndjson", '{"x":[{"id":7}],"invoiceId":"1"}\n', ["1"], id="ndjson-nested"),
        pytest.param("m.jsonl", "", [], id="empty-jsonl"),
        pytest.param(
            "m.csv.gz", gzip.compress(b"id\n1\n") + gzip.compress(b"2\n"), ["1", "2"], id="gzip-members"
        ),
        pytest.param("m.csv", gzip.compress(b"id\n1\n"), ["1"], id="gzip-by-magic"),
    ],
)
async def test_rows_are_read(tmp_path: Path, name: str, content: str | bytes, expected: list[str]) -> None:
    """Every format gives its ids in order, numbered from 1, and the check counts the same."""
    path = written(tmp_path, name, content)
    check, rows = await read_all(path)
    assert ids(rows) == expected
    assert [row.row for row in rows] == list(range(1, len(expected) + 1))
    assert all(row.file is None and row.keep is None for row in rows)
    assert check.rows == len(expected)
    assert check.files[0].path == str(path)
    assert check.files[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param('" 00123 "', "00123", id="string"),
        pytest.param("123", "123", id="integer"),
        pytest.param("-5", "!-5", id="negative-integer"),
        pytest.param("7" * 9999, "!" + "7" * 256, id="endless-integer"),
        pytest.param('"' + "7" * 3_000_000 + '"', "!" + "7" * 256, id="endless-string"),
        pytest.param("1.5", "!1.5", id="fraction"),
        pytest.param("1E5", "!1E5", id="exponent"),
        pytest.param('"1E5"', "1E5", id="exponent-as-text"),
        pytest.param("null", "!null", id="null"),
        pytest.param("true", "!true", id="true"),
        pytest.param("[1]", "![1]", id="list"),
        pytest.param('{"id":1}', '!{"id":1}', id="object"),
        pytest.param('"a\\u0000\\u202e"', "!a\\x00\\u202e", id="controls"),
        pytest.param('""', "!", id="empty-string"),
    ],
)
async def test_json_values_become_ids_only_as_text_or_integer(
    tmp_path: Path, value: str, expected: str
) -> None:
    """Other types are recorded as they stand and sent nowhere."""
    _, rows = await read_all(written(tmp_path, "m.jsonl", f'{{"id": {value} , "x": 1}}\n'))
    assert ids(rows) == [expected]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("utf-16", "id,n\n1,é\n"), ("utf-16-le", "\ufeffid,n\n1,é\n"), ("cp1252", "id,n\n1,€\n")],
    ids=["utf-16", "utf-16-le-with-mark", "cp1252"],
)
async def test_other_encodings_are_read(tmp_path: Path, encoding: str, text: str) -> None:
    """The encoding applies to the whole file, kept columns included."""
    path = written(tmp_path, "m.csv", text.encode(encoding))
    _, rows = await read_all(path, options=ManifestOptions(encoding=encoding, keep=("n",)))
    assert rows == [ManifestRow(row=1, invoice_id="1", keep={"n": text[-2]})]


async def test_duplicates_point_to_the_first_row_across_files(tmp_path: Path) -> None:
    """An id counts once, wherever it stands again; invalid text likewise."""
    one = written(tmp_path, "one.csv", "id\n1\n..\n1\n")
    two = written(tmp_path, "two.txt", "2\n1\n..\n3\n")
    first, second = str(one), str(two)
    reasons = remembered(tmp_path, ("2", Reason.PAID), ("!..", Reason.INVALID_ID))
    async with open_manifest([first, second], options=DEFAULTS, spool_dir=tmp_path) as manifest:
        check = await manifest.check(standing_of=standing_of, reasons=reasons)
        rows = [row async for row in manifest.rows()]
    settled = Standing.SETTLED
    assert rows == [
        ManifestRow(row=1, invoice_id="1", file=first),
        ManifestRow(row=2, invoice_id="..", valid=False, file=first, standing=settled),
        ManifestRow(row=3, invoice_id="1", file=first, duplicate_of=1, duplicate_of_file=first),
        ManifestRow(row=1, invoice_id="2", file=second, standing=settled),
        ManifestRow(row=2, invoice_id="1", file=second, duplicate_of=1, duplicate_of_file=first),
        ManifestRow(
            row=3, invoice_id="..", valid=False, file=second, duplicate_of=2, duplicate_of_file=first
        ),
        ManifestRow(row=4, invoice_id="3", file=second),
    ]
    assert (check.rows, check.distinct, check.invalid, check.duplicates, check.open) == (7, 3, 1, 3, 2)
    assert check.to_settle == 2
    assert [file.rows for file in check.files] == [3, 4]
    assert [file.sha256 for file in check.files] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in (one, two)
    ]


async def test_an_empty_file_between_others_shifts_no_row(tmp_path: Path) -> None:
    """Rows are placed in the file that they stand in."""
    empty = written(tmp_path, "empty.csv", "")
    one = written(tmp_path, "one.txt", "1\n")
    two = written(tmp_path, "two.txt", "1\n")
    _, rows = await read_all(empty, one, empty, two)
    assert [(row.file, row.row, row.duplicate_of_file) for row in rows] == [
        (str(one), 1, None),
        (str(two), 1, str(one)),
    ]


async def test_many_batches_keep_their_order(tmp_path: Path) -> None:
    """Rows beyond one batch go on in order and in number."""
    wanted = [f"I{n}" for n in range(2500)]
    check, rows = await read_all(written(tmp_path, "m.txt", "\n".join(wanted)))
    assert ids(rows) == wanted
    assert rows[-1].row == check.rows == check.open == 2500


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        pytest.param("m.csv", "id,Total\n1, 10.10 \n2\n", ["10.10", ""], id="csv"),
        pytest.param(
            "m.jsonl",
            '{"id":1,"total":" 10.10"}\n{"id":2,"total":10.10}\n{"id":3,"total":null}\n{"id":4}\n',
            ["10.10", "10.10", "", ""],
            id="jsonl",
        ),
    ],
)
async def test_kept_columns_are_carried(tmp_path: Path, name: str, content: str, expected: list[str]) -> None:
    """A kept value stands under the name that was asked for; what is absent is empty."""
    _, rows = await read_all(written(tmp_path, name, content), options=ManifestOptions(keep=("total",)))
    assert [row.keep for row in rows] == [{"total": value} for value in expected]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.csv", "id,open,due,cur\n1, 10.50 ,2026-01-05,USD\n2,,,\n", id="csv"),
        pytest.param(
            "a.jsonl", '{"id":"1","open":10.50,"due":"2026-01-05","cur":"USD"}\n{"id":"2"}\n', id="jsonl"
        ),
    ],
)
async def test_columns_to_match_are_read_and_not_kept(tmp_path: Path, name: str, content: str) -> None:
    """By field; what is kept is told apart from what is matched."""
    options = ManifestOptions(
        keep=("cur",),
        match={MatchField.TOTAL: "open", MatchField.DUE_DATE: "due", MatchField.CURRENCY: "CUR"},
    )
    _, rows = await read_all(written(tmp_path, name, content), options=options)
    total, due, currency = MatchField.TOTAL, MatchField.DUE_DATE, MatchField.CURRENCY
    assert rows[0].match == {total: "10.50", due: "2026-01-05", currency: "USD"}
    assert rows[1].match == {total: "", due: "", currency: ""}
    assert rows[0].keep == {"cur": "USD"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param(
            "m.csv", "id,who\n1,shop_a\n1,shop_b\n1, shop_a \n!,shop_b\n2,acme\n!,shop_a\n", id="csv"
        ),
        pytest.param(
            "m.jsonl",
            '{"id":1,"WHO":"shop_a"}\n{"id":1,"WHO":"shop_b"}\n{"id":1,"WHO":" shop_a "}\n'
            '{"id":"!","WHO":"shop_b"}\n{"id":2,"WHO":"acme"}\n{"id":"!","WHO":"shop_a"}\n',
            id="jsonl",
        ),
    ],
)
async def test_rows_say_whose_invoice_they_are(tmp_path: Path, name: str, content: str) -> None:
    """The same id is another invoice at another merchant; the run's own merchant is not repeated."""
    options = ManifestOptions(merchant_column="who", own_merchant_id="acme")
    check, rows = await read_all(written(tmp_path, name, content), options=options)
    merchants = ["shop_a", "shop_b", "shop_a", "shop_b", None, "shop_a"]
    assert [row.merchant_id for row in rows] == merchants
    assert [row.duplicate_of for row in rows] == [None, None, 1, None, None, None]
    assert (check.rows, check.distinct, check.invalid, check.duplicates) == (6, 3, 2, 1)
    assert check.open_of == {"shop_a": 1, "shop_b": 1, None: 1}
    assert check.merchants == {"shop_a", "shop_b", None}


@pytest.mark.parametrize(
    ("name", "content", "line", "said"),
    [
        pytest.param("m.csv", "id,who\n1,a\n2,\n", 3, "'' in 'who' is no merchant id", id="empty"),
        pytest.param("m.csv", "who,id\na,1\n,2\n", 3, "'' in 'who' is no merchant id", id="empty-before"),
        pytest.param("m.csv", "id,who\n1\n", 2, "'' in 'who' is no merchant id", id="short-row"),
        pytest.param("m.csv", "id,who\n1,a b\n", 2, "'a b' in 'who'", id="space"),
        pytest.param("m.csv", "id,who\n1,\u00fc\n", 2, "printable ASCII", id="no-ascii"),
        pytest.param("m.csv", f"id,who\n1,{'a' * 129}\n", 2, "1 to 128", id="too-long"),
        pytest.param("m.csv", 'id,who\n1,"a\nb"\n', 2, r"'a\\\\x0ab' in 'who'", id="line-end"),
        pytest.param("m.jsonl", '{"id":1,"who":"a"}\n{"id":2}\n', 2, "is no merchant id", id="no-field"),
        pytest.param("m.jsonl", '{"id":1,"who":true}\n', 1, "is no merchant id", id="boolean"),
        pytest.param("m.jsonl", '{"id":1,"who":["a"]}\n', 1, "is no merchant id", id="list"),
        pytest.param("m.jsonl", '{"id":1,"who":"a","who":"b"}\n', 1, "'who' stands there twice", id="twice"),
        pytest.param("m.csv", "id\n1\n", 1, "no column is called 'who'", id="no-column"),
        pytest.param("m.csv", "who\n1\n", 1, "'who' is the id's column", id="id-column"),
        pytest.param("m.jsonl", '{"who":1}\n', 1, "'who' is the id's column", id="id-field"),
    ],
)
async def test_a_row_of_nobody_is_malformed(
    tmp_path: Path, name: str, content: str, line: int, said: str
) -> None:
    """Whose invoice it is can't be guessed: file and line are named, and nothing is read on."""
    with pytest.raises(ManifestError, match=rf"line {line}: .*{said}"):
        await read_all(written(tmp_path, name, content), options=ManifestOptions(merchant_column="who"))


async def test_the_check_counts_where_invoices_stand(tmp_path: Path) -> None:
    """Every row is in exactly one place; only what is asked about is open."""
    reasons = remembered(
        tmp_path,
        ("1", Reason.UNKNOWN),
        ("3", Reason.NETWORK),
        ("4", Reason.UNKNOWN),
        ("!b@d", Reason.INVALID_ID),
        ("b@d2", Reason.PAID),
        ("1", Reason.CANCELED),
    )
    path = written(tmp_path, "a.txt", "1\n2\n3\n4\n5\n5\nb@d\nb@d2\n")
    async with open_manifest([str(path)], options=DEFAULTS, spool_dir=tmp_path) as manifest:
        check = await manifest.check(
            standing_of=standing_of, reasons=reasons, excluded=frozenset({"1", "2", "b@d2"})
        )
        rows = [row async for row in manifest.rows()]
    assert (check.rows, check.distinct, check.invalid, check.duplicates) == (8, 5, 2, 1)
    assert (check.settled, check.excluded, check.held_back, check.open, check.to_settle) == (2, 1, 1, 2, 3)
    assert [row.standing for row in rows if row.duplicate_of is None] == [
        Standing.SETTLED,
        Standing.EXCLUDED,
        Standing.HELD_BACK,
        Standing.TO_LOOK_UP,
        Standing.TO_ASK,
        Standing.SETTLED,
        Standing.TO_ASK,
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("never.txt", "7\n8\n", id="txt"),
        pytest.param("never.csv", "name,invoice_id\nx,7\ny,8\nz,7\n", id="csv"),
        pytest.param("never.jsonl", '{"id":"7"}\n{"id":8}\n', id="jsonl"),
        pytest.param("never", "7\n 8 \n\n", id="no suffix"),
        pytest.param("never.lst", "7\n8\n", id="another suffix"),
    ],
)
async def test_excluded_ids_are_read_from_any_kind_of_file(tmp_path: Path, name: str, content: str) -> None:
    """By the file's name, and one id a line where it tells nothing."""
    path = written(tmp_path, name, content)
    assert await read_excluded_ids(str(path), encoding="utf-8", spool_dir=tmp_path) == {"7", "8"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        pytest.param("never.txt", "7\n12345.0\n", "row 2: '12345.0' is no invoice id", id="damaged id"),
        pytest.param("never.csv", "a,b\n7,8\n", "no column is called invoice_id", id="no id column"),
        pytest.param("-", "", "can't come from standard input", id="standard input"),
        pytest.param("gone", None, "there is no such file|No such file", id="no such file"),
    ],
)
async def test_a_list_that_would_protect_nobody_is_refused(
    tmp_path: Path, name: str, content: str | None, words: str
) -> None:
    """Before anything is sent."""
    path = name if name == "-" else str(tmp_path / name)
    if content:
        written(tmp_path, name, content)
    with pytest.raises(ManifestError, match=words):
        await read_excluded_ids(path, encoding="utf-8", spool_dir=tmp_path)


async def test_a_json_key_with_spaces_is_found_by_its_trimmed_name(tmp_path: Path) -> None:
    """The field is looked up as the file spells it."""
    path = written(tmp_path, "m.jsonl", '{" Ref ":"1","id":"2"}\n')
    _, rows = await read_all(path, options=ManifestOptions(column="ref"))
    assert ids(rows) == ["1"]


@pytest.mark.parametrize(
    ("name", "content", "line", "said"),
    [
        pytest.param("m.csv", "n,id\na,1\n\nb\n", 4, "before the id's column", id="row-too-short"),
        pytest.param("m.csv", "id,n\n1,a\n2,b,c\n", 3, "the id may have moved", id="surplus-cell"),
        pytest.param("m.csv", 'id,n\n1,"a"x\n', 2, "broken quoting", id="broken-quote"),
        pytest.param("m.csv", 'id,n\n1,"a\nb"\n2,"c\n3,d\n', 4, "broken quoting", id="unclosed-quote"),
        pytest.param("m.csv", "id,n\n1," + "x" * 200_000 + "\n", 2, "endless cell", id="endless-cell"),
        pytest.param("m.csv", b"id\n1\n\xff2\n", 3, "not valid utf-8", id="undecodable"),
        pytest.param("m.txt", b"1\r\n2\r\n\xe2\x82", 3, "not valid utf-8", id="cut-character"),
        pytest.param("m.csv", "id\n1\n".encode("utf-16"), 1, "not valid utf-8", id="another-encoding"),
        pytest.param("m.txt", "1\n" + "2" * (16 * 1024 * 1024), 2, "longer than", id="endless-line"),
        pytest.param("m.jsonl", '{"id":1}\n[1]\n', 2, "not one JSON object", id="no-object"),
        pytest.param("m.jsonl", '{"id":1}\n{"id":1\n', 2, "not one JSON object", id="cut-object"),
        pytest.param("m.jsonl", '{"id":1} {"id":2}\n', 1, "not one JSON object", id="two-objects"),
        pytest.param("m.jsonl", '{"id":"\\ud800"}\n', 1, "not one JSON object", id="lone-surrogate"),
        pytest.param("m.jsonl", '{"id":' + "[" * 200_000 + "\n", 1, "not one JSON object", id="too-deep"),
        pytest.param("m.jsonl", '{"id":1}\n{"ID":1}\n', 2, "has no field 'id'", id="another-field"),
        pytest.param("m.jsonl", '{"id":1,"x":{"id":1},"id":2}\n', 1, "stands there twice", id="field-twice"),
        pytest.param("m.jsonl", '{"id":1,"Id":2}\n', 1, "several columns", id="two-fields-fit"),
        pytest.param("m.jsonl", '{"id":1}\n{"id":2,"invoice_id":3}\n', 2, "several fields", id="later-two"),
        pytest.param("m.jsonl", '{"ref":1}\n{"ref":2,"id":3}\n', 2, "several fields", id="later-usual"),
        pytest.param("m.jsonl", '{"id":1,"\\u0069d":2}\n', 1, "stands there twice", id="escaped-twice"),
        pytest.param("m.jsonl", "{}\n", 1, "there are: none", id="empty-object"),
        pytest.param("m.csv", "INV-1\nINV-2\n", 1, "looks like an id", id="headerless"),
        pytest.param("m.csv", "number;name\n1;a\n", 1, "semicolons", id="semicolons"),
        pytest.param("m.csv.gz", gzip.compress(b"id\n1\n")[:-6], 3, "can't be read", id="cut-gzip"),
        pytest.param("m.csv.gz", b"id\n1\n", 1, "can't be read", id="no-gzip"),
        pytest.param("m.csv", b"\x1f\x8b\x08\x00" + b"\xff" * 64, 1, "can't be read", id="corrupt-gzip"),
    ],
)
async def test_a_malformed_line_is_named(
    tmp_path: Path, name: str, content: str | bytes, line: int, said: str
) -> None:
    """The message begins with file and line, and the check ends there."""
    path = written(tmp_path, name, content)
    with pytest.raises(ManifestError) as caught:
        await read_all(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        pytest.param("id,n\n1,a\n", ManifestOptions(column="nn"), "Did you mean 'n'", id="mistyped-column"),
        pytest.param(
            "id,n\n1,a\n", ManifestOptions(keep=("x",)), "no column is called 'x'", id="no-column-to-keep"
        ),
        pytest.param(
            "id,n\n1," + "x" * 4097, ManifestOptions(keep=("n",)), "longer than 4096", id="kept-too-long"
        ),
        pytest.param("id,n\n1,a\n", ManifestOptions(encoding="utf-16"), "can't be read", id="no-utf-16"),
        pytest.param("é\n", ManifestOptions(encoding="ascii"), "line 1: not valid ascii", id="no-ascii"),
    ],
)
async def test_options_that_do_not_fit_the_file_are_refused(
    tmp_path: Path, content: str, options: ManifestOptions, said: str
) -> None:
    """The check says what does not fit."""
    with pytest.raises(ManifestError, match=said):
        await read_all(written(tmp_path, "m.csv", content), options=options)


async def test_a_column_may_be_named_where_the_header_looks_like_an_id(tmp_path: Path) -> None:
    """The user's word settles the doubt."""
    path = written(tmp_path, "m.csv", "inv2024\n7\n")
    _, rows = await read_all(path, options=ManifestOptions(column="inv2024"))
    assert ids(rows) == ["7"]


async def test_a_nested_field_of_the_same_name_is_no_repetition(tmp_path: Path) -> None:
    """Only the outermost object's keys count."""
    _, rows = await read_all(written(tmp_path, "m.jsonl", '{"id":1,"x":{"id":2},"y":1.5}\n'))
    assert ids(rows) == ["1"]


@pytest.mark.parametrize(
    ("paths", "options", "said"),
    [
        pytest.param(["-", "-"], ManifestOptions(format=Format.CSV), "only once", id="stdin-twice"),
        pytest.param(["-"], DEFAULTS, "--format", id="stdin-without-format"),
        pytest.param(["/dev/null"], DEFAULTS, "--format", id="no-suffix"),
        pytest.param(["m.xlsx"], DEFAULTS, "no such file", id="missing-of-unknown-suffix"),
        pytest.param(["."], DEFAULTS, "folder", id="folder-without-suffix"),
        pytest.param(
            ["m.csv"], ManifestOptions(encoding="utf-88"), "--encoding 'utf-88'", id="unknown-encoding"
        ),
        pytest.param(["m.csv"], ManifestOptions(encoding="hex"), "--encoding 'hex'", id="no-text-encoding"),
        pytest.param(["m.csv"], ManifestOptions(encoding="a\0b"), "--encoding", id="nul-in-encoding"),
        pytest.param(["m.txt"], ManifestOptions(column="id"), "no columns", id="column-of-a-list"),
        pytest.param(["m.txt"], ManifestOptions(keep=("x",)), "no columns", id="keep-of-a-list"),
        pytest.param(["absent.csv"], DEFAULTS, "no such file", id="missing"),
        pytest.param(["."], ManifestOptions(format=Format.CSV), "folder", id="folder"),
        pytest.param(["a/" * 5000 + "m.csv"], DEFAULTS, "can't be opened", id="name-too-long"),
        pytest.param(["\udcff.csv"], DEFAULTS, "not valid UTF-8", id="undecodable-name"),
    ],
)
async def test_a_manifest_that_can_not_be_opened_says_what_to_do(
    tmp_path: Path, paths: list[str], options: ManifestOptions, said: str
) -> None:
    """Opening fails before anything is read."""
    with pytest.raises(ManifestError, match=said):
        async with open_manifest(paths, options=options, spool_dir=tmp_path):
            pytest.fail("the manifest was opened")
