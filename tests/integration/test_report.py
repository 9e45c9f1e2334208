"""Ledgers on disk to figures and files: whose answer counts, what is written, what is left as it was."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import os
import re
import sys
import zipfile
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchcancel.errors import LedgerDamagedError, LedgerFaultError, LedgerMismatchError, ReportError
from batchcancel.model import Outcome, Reason, RunState
from batchcancel.report import sample, xlsx
from batchcancel.report.document import as_json, report_document
from batchcancel.report.exports import COLUMNS
from batchcancel.report.figures import Ending, Figures, Money
from batchcancel.report.make import Outputs, make_report
from batchcancel.report.reading import Entry
from batchcancel.report.text import report_text

if TYPE_CHECKING:
    from tests.conftest import WriteLedger

LATER: dict[str, Any] = {
    "run_id": "22222222-0000-4000-8000-000000000002",
    "started_at": "2026-11-02T02:00:00.000Z",
}
NASTY = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg/onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "]]><!--",
    "\u2028\u202e\x00\x1b[2J",
    '=HYPERLINK("http://x.example")',
)


def figures_of(*ledgers: Path) -> Figures:
    """Report on ledgers without writing a file."""
    return make_report(ledgers, Outputs()).figures


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read a CSV export."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


# --- answers --------------------------------------------------------------------------------------


def test_the_latest_row_of_an_invoice_is_its_answer(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """Within a ledger the position decides, also where a clock was set back."""
    path = write_ledger(
        tmp_path / "a", {"invoice_id": "1", "reason": "unknown"}, {"invoice_id": "2"}, **LATER
    )
    write_ledger(path, {"invoice_id": "1", "reason": "paid"})
    figures = figures_of(path)
    assert figures.reasons == {Reason.PAID: 1, Reason.CANCELED: 1}
    assert [run.rows for run in figures.runs] == [2, 1]


@pytest.mark.parametrize("is_reversed", [False, True], ids=["in order", "reversed"])
def test_between_ledgers_the_run_that_began_later_counts(
    tmp_path: Path, write_ledger: WriteLedger, *, is_reversed: bool
) -> None:
    """However they are named."""
    ledgers = [
        write_ledger(tmp_path / "a", {"invoice_id": "1", "reason": "unknown"}),
        write_ledger(tmp_path / "b", {"invoice_id": "1", "reason": "paid"}, **LATER),
    ]
    figures = figures_of(*(reversed(ledgers) if is_reversed else ledgers))
    assert figures.reasons == {Reason.PAID: 1}
    assert len(figures.runs) == 2


def test_a_run_in_two_ledgers_is_told_once(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """As after a salvage: its work was done once."""
    ledgers = [write_ledger(tmp_path / name, {"invoice_id": "1"}) for name in "ab"]
    figures = figures_of(*ledgers)
    assert (figures.invoices, len(figures.runs), figures.latencies.count) == (1, 1, 1)


def test_the_same_id_at_two_merchants_is_two_invoices(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """And a text that is no id never stands for one that is."""
    rows: list[dict[str, Any]] = [
        {"invoice_id": "1", "merchant_id": "north"},
        {"invoice_id": "1", "merchant_id": "south", "reason": "paid"},
        {"invoice_id": "1"},
        {"invoice_id": "1", "reason": "invalid_id"},
    ]
    figures = figures_of(write_ledger(tmp_path / "a", *rows))
    assert (figures.invoices, figures.merchants) == (4, {"north", "south"})


def test_money_is_summed_by_currency_and_by_what_became_of_it(
    tmp_path: Path, write_ledger: WriteLedger
) -> None:
    """Exactly; amounts that are not known are counted instead."""
    rows: list[dict[str, Any]] = [
        {"amount": "0.10", "currency": "USD"},
        {"amount": "0.20", "currency": "USD"},
        {"amount": "5", "currency": "USD", "reason": "already_canceled"},
        {"amount": "7.00", "balance": "3.50", "currency": "EUR", "reason": "partial"},
        {"amount": "9.00", "currency": "EUR", "reason": "paid"},
        {"amount": "4.00", "currency": "EUR", "reason": "pending"},
        {"amount": None, "reason": "not_found"},
        {"amount": "1E999999", "currency": "EUR"},
    ]
    figures = figures_of(write_ledger(tmp_path / "a", *rows))
    usd, eur = figures.money["USD"], figures.money["EUR"]
    assert (usd[Money.CANCELED], usd[Money.CANCELED_BEFORE]) == (Decimal("0.30"), Decimal(5))
    assert (eur[Money.PARTIALLY_PAID], eur[Money.STILL_OWED]) == (Decimal("7.00"), Decimal("3.50"))
    assert [eur[one] for one in (Money.ALREADY_PAID, Money.OPEN, Money.CANCELED)] == [9, 4, 0]
    assert figures.without_amount == {Outcome.ERROR: 1, Outcome.CANCELED: 1}


def test_many_rows_are_compared_in_a_file(
    tmp_path: Path, write_ledger: WriteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same answers; where there is no room for it that is said."""
    rows = [{"invoice_id": str(number % 40), "reason": "unknown"} for number in range(100)]
    path = write_ledger(tmp_path / "a", *rows)
    write_ledger(path, *({"invoice_id": str(number)} for number in range(30)), **LATER)
    monkeypatch.setattr("batchcancel.buckets.MAX_HELD", 7)
    assert figures_of(path).reasons == {Reason.CANCELED: 30, Reason.UNKNOWN: 10}
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(ReportError, match="TMPDIR"):
        figures_of(path)


# --- for programs ---------------------------------------------------------------------------------


def test_the_document_is_pinned(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """Programs read it: the keys and their meaning never change."""
    path = write_ledger(
        tmp_path / "a",
        {"amount": "10.10", "currency": "USD"},
        {"reason": "partial", "amount": "1000000.00", "balance": "0.50", "currency": "USD", "lookups": 1},
        {"reason": "refused"},
        {"reason": "not_found", "merchant_id": "shop"},
        state=RunState.STOPPED,
        why="too many errors",
        ref="FIN-311",
    )
    document = report_document(figures_of(path))
    run = document["runs"][0]
    assert run.pop("ended_at")
    assert run.pop("duration_s") >= 0
    assert document == {
        "env": "test",
        "merchant_id": "exa***nt",
        "merchants": 1,
        "live": False,
        "invoices": 4,
        "outcomes": {"canceled": 1, "already_paid": 0, "partially_paid": 1, "error": 2},
        "reasons": {"canceled": 1, "partial": 1, "not_found": 1, "refused": 1},
        "final_errors": 1,
        "open_errors": 1,
        "amounts": {
            "USD": {
                "canceled": "10.10",
                "canceled_before": "0",
                "already_paid": "0",
                "partially_paid": "1000000.00",
                "still_owed": "0.50",
                "open": "0",
            }
        },
        "without_amount": {"canceled": 0, "already_paid": 0, "partially_paid": 0, "error": 2},
        "runs": [
            {
                "run_id": "11111111-0000-4000-8000-000000000001",
                "ledger": str(path),
                "started_at": "2026-11-01T02:00:00.000Z",
                "state": "stopped",
                "why": "too many errors",
                "ref": "FIN-311",
                "operator": "finance",
                "host": "batch01",
                "results": 4,
                "errors": 2,
                "attempts": 4,
                "lookups": 1,
            }
        ],
        "ledgers": [{"path": str(path), "empty": False, "live": False, "torn_bytes": 0}],
    }


def test_the_document_of_nothing_has_every_key(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """An empty ledger is no error here either."""
    (tmp_path / "a").touch()
    nothing = report_document(figures_of(tmp_path / "a"))
    something = report_document(figures_of(write_ledger(tmp_path / "b", {})))
    assert list(nothing) == list(something)
    assert (nothing["env"], nothing["merchant_id"], nothing["invoices"]) == (None, None, 0)
    assert nothing["ledgers"][0]["empty"]


def test_the_document_of_a_run_without_an_end_says_so(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """It was killed: nobody knows how long it lasted."""
    (run,) = report_document(figures_of(write_ledger(tmp_path / "a", {}, state=None)))["runs"]
    assert (run["state"], run["ended_at"], run["duration_s"], run["why"]) == ("no_end", None, None, None)


def test_the_document_is_ascii_on_one_line(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """Nothing that a ledger holds moves a cursor; programs still read it as it was."""
    path = write_ledger(tmp_path / "a\u202e", {"amount": "1", "currency": NASTY[5]}, ref=NASTY[5])
    text = as_json(report_document(figures_of(path)))
    assert text.isascii()
    assert text.removesuffix("\n").isprintable()
    assert json.loads(text)["runs"][0]["ref"] == NASTY[5]


# --- states of a ledger ---------------------------------------------------------------------------


def test_runs_stand_in_the_order_in_which_they_began(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """In whatever order their ledgers are named: the last ones are shown, the others called earlier."""
    first = write_ledger(tmp_path / "a", {})
    second = write_ledger(tmp_path / "b", {}, **LATER)
    began = [run.record.started_at for run in figures_of(second, first).runs]
    assert began == ["2026-11-01T02:00:00.000Z", LATER["started_at"]]


def test_runs_tell_how_they_ended(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """Stopped ones say why; one without an end that nobody writes to was killed."""
    path = write_ledger(tmp_path / "a", {}, state=None)
    write_ledger(path, {}, state=RunState.STOPPED, why="too many errors", run_id="2", ref="FIN-311")
    figures = figures_of(path)
    assert [run.ending for run in figures.runs] == [Ending.NO_END, Ending.STOPPED]
    text = report_text(figures)
    assert "stopped: too many errors" in text
    assert "FIN-311" in text


def test_a_ledger_that_another_hand_changes_meanwhile_is_no_report(
    tmp_path: Path, write_ledger: WriteLedger
) -> None:
    """Between the two passes: no file is left."""
    path = write_ledger(tmp_path / "a", *[{"message": "x" * 200_000}] * 8)  # more than is read at once

    def empty(entry: Entry) -> None:
        if entry.is_answer:
            path.write_bytes(b"")

    with pytest.raises(LedgerFaultError, match="changed while it was read"):
        make_report([path], Outputs(csv=tmp_path / "c.csv"), watch=empty)
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_an_empty_ledger_says_so(tmp_path: Path) -> None:
    """It is no error, and its page can be made too."""
    (tmp_path / "a").touch()
    made = make_report([tmp_path / "a"], Outputs(html=tmp_path / "p.html", csv=tmp_path / "c.csv"))
    assert report_text(made.figures) == "The ledger is empty: no run has begun in it.\n"
    assert "No run has begun" in (tmp_path / "p.html").read_text(encoding="utf-8")
    assert rows_of(tmp_path / "c.csv") == []


def test_a_torn_last_line_is_told_and_does_not_count(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """As a crash leaves it."""
    path = write_ledger(tmp_path / "a", {}, {}, state=None)
    path.write_bytes(path.read_bytes()[:-20])
    figures = figures_of(path)
    assert figures.invoices == 1
    assert "unfinished" in report_text(figures)


def test_what_is_too_much_to_list_is_counted(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """Runs, currencies and ledgers, in the summary and on the page."""
    path = write_ledger(tmp_path / "a", *({"amount": "1", "currency": f"C{n:02}"} for n in range(60)))
    for number in range(204):
        write_ledger(path, {"reason": "paid"}, run_id=str(number), state=None)
    (tmp_path / "b").touch()
    torn = write_ledger(tmp_path / "c", {}, run_id="torn", state=None)
    torn.write_bytes(torn.read_bytes()[:-1])
    (tmp_path / "d").touch()
    ledgers = [path, tmp_path / "b", torn, tmp_path / "d"]
    text = report_text(make_report(ledgers, Outputs(html=tmp_path / "p.html")).figures)
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    for said, where in (
        ("and 29 more currencies", text),
        ("and 186 earlier runs", text),
        ("is empty", text),
        ("is unfinished", text),
        ("And 9 more currencies", page),
        ("6 earlier runs are not listed", page),
        ("a, b, c and 1 more ledgers", page),
        ("b is empty", page),
        ("The last write of c is unfinished", page),
        ("A run without an end was killed", page),
    ):
        assert said in where


def test_what_can_not_be_reported_on_is_refused(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """Damage, another account, a newer format, no ledger, a ledger twice; no file is begun."""
    good = write_ledger(tmp_path / "good", {}, {})
    damaged = write_ledger(tmp_path / "damaged", {}, {})
    damaged.write_bytes(damaged.read_bytes().replace(b'"2601"', b'"2609"'))
    other = write_ledger(tmp_path / "other", {}, merchant_id="another")
    newer = write_ledger(tmp_path / "newer", {}, v=2)
    strange = tmp_path / "strange"
    strange.write_text("invoice_id\n1\n", encoding="utf-8")
    (tmp_path / "link").symlink_to(good)
    outputs = Outputs(csv=tmp_path / "out.csv")
    for ledgers, error, sentence in (
        ([damaged], LedgerDamagedError, "is damaged and good lines follow it"),
        ([good, other], LedgerMismatchError, "another environment or merchant"),
        ([newer], LedgerMismatchError, "newer version"),
        ([strange], LedgerMismatchError, "is no ledger"),
        ([tmp_path / "nowhere"], LedgerMismatchError, "can't be opened"),
        ([good, tmp_path / "link"], ReportError, "is named twice"),
    ):
        with pytest.raises(error, match=sentence):
            make_report(ledgers, outputs)
    assert not list(tmp_path.glob("*out.csv*"))


# --- exports --------------------------------------------------------------------------------------


def test_exports_have_one_row_an_invoice_with_its_kept_columns(
    tmp_path: Path, write_ledger: WriteLedger
) -> None:
    """Its latest answer, in all three formats; digits stay, formulas do not."""
    rows: list[dict[str, Any]] = [
        {
            "invoice_id": "0042",
            "amount": "10.10",
            "currency": "USD",
            "keep": {"customer": "=1+1", "amount": "x"},
        },
        {"invoice_id": "7", "reason": "unknown", "message": "-2+3"},
        {"invoice_id": "-9", "reason": "invalid_id", "amount": "-5.00"},
    ]
    path = write_ledger(tmp_path / "a", *rows, ref="@ref")
    write_ledger(path, {"invoice_id": "7", "amount": "123456789012345678.01"}, **LATER)
    outputs = Outputs(csv=tmp_path / "c.csv", xlsx=tmp_path / "x.xlsx", jsonl=tmp_path / "j.jsonl")
    made = make_report([path], outputs)
    assert [one.rows for one in made.written] == [3, 3, 3]

    table = {row["invoice_id"]: row for row in rows_of(tmp_path / "c.csv")}
    assert " ".join(table["0042"]) == (
        "invoice_id merchant_id outcome reason final invoice_status amount balance currency resolved_by "
        "http_status attempts lookups at latency_ms submitted_at correlation_id message row file run_id ref "
        "ledger keep.customer keep.amount"
    )
    assert set(table) == {"0042", "7", "'-9"}
    assert table["0042"]["keep.customer"] == "'=1+1"
    assert (table["0042"]["amount"], table["0042"]["ref"]) == ("10.10", "'@ref")
    assert (table["7"]["outcome"], table["7"]["amount"]) == ("canceled", "123456789012345678.01")
    assert table["'-9"]["amount"] == "-5.00"

    objects = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [one["invoice_id"] for one in objects] == ["0042", "-9", "7"]
    assert objects[0]["keep"] == {"customer": "=1+1", "amount": "x"}
    assert list(objects[0]) == [*COLUMNS, "keep"]

    cells = xlsx_cells(tmp_path / "x.xlsx")
    assert cells["A2"] == "0042"
    assert (cells["G2"], cells["G4"]) == (10.1, "123456789012345678.01")
    assert cells["X2"] == "'=1+1"


def xlsx_cells(path: Path) -> dict[str, str | float]:
    """Read the cells of a workbook's first sheet; a formula among them fails the test."""
    with zipfile.ZipFile(path) as book:
        sheet = book.read("xl/worksheets/sheet1.xml").decode()
    assert "<f>" not in sheet
    texts = re.findall(r'<c r="(\w+)"[^>]*t="inlineStr"><is><t[^>]*>([^<]*)</t>', sheet)
    numbers = re.findall(r'<c r="(\w+)"(?: s="\d+")?><v>([^<]*)</v>', sheet)
    return dict(texts) | {place: float(value) for place, value in numbers}


def test_a_workbook_goes_on_on_further_sheets(
    tmp_path: Path, write_ledger: WriteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sheet holds a million rows; nothing is lost beyond."""
    monkeypatch.setattr(xlsx, "_MOST_ROWS", 3)
    path = write_ledger(tmp_path / "a", {}, {}, {"message": "x" * 40_000})
    make_report([path], Outputs(xlsx=tmp_path / "x.xlsx"))
    with zipfile.ZipFile(tmp_path / "x.xlsx") as book:
        sheets = [book.read(f"xl/worksheets/sheet{number}.xml").decode() for number in (1, 2)]
    assert [re.findall(r">(26\d\d)<", sheet) for sheet in sheets] == [["2601", "2602"], ["2603"]]
    assert [sheet.count(">invoice_id<") for sheet in sheets] == [1, 1]
    assert f">{'x' * 32_767}<" in sheets[1]


def test_only_the_outcomes_that_were_asked_for_are_exported(
    tmp_path: Path, write_ledger: WriteLedger
) -> None:
    """The summary counts all of them."""
    path = write_ledger(tmp_path / "a", {}, {"reason": "paid"}, {"reason": "refused"})
    outputs = Outputs(csv=tmp_path / "c.csv", outcomes=frozenset({Outcome.ERROR, Outcome.ALREADY_PAID}))
    made = make_report([path], outputs)
    assert [row["reason"] for row in rows_of(tmp_path / "c.csv")] == ["paid", "refused"]
    assert made.figures.invoices == 3


@pytest.mark.parametrize(
    ("ref", "beginning"), [("FIN-1", b"invoice_id,"), ("für", b"\xef\xbb\xbfinvoice_id,")]
)
def test_a_csv_is_marked_where_it_is_more_than_ascii(
    tmp_path: Path, write_ledger: WriteLedger, ref: str, beginning: bytes
) -> None:
    """Excel would guess the encoding; a program would read the mark as a part of the first column's name."""
    path = write_ledger(tmp_path / "a.jsonl", {"invoice_id": "1"}, ref=ref)
    (written,) = make_report([path], Outputs(csv=tmp_path / "c.csv")).written
    content = written.path.read_bytes()
    assert content.startswith(beginning)
    assert (written.size_bytes, written.path.stat().st_mode & 0o777) == (len(content), 0o600)
    assert [row["ref"] for row in rows_of(written.path)] == [ref]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.jsonl", "c.csv"]


def test_no_file_is_replaced_that_nobody_gave_up(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """But for an earlier page; with force any but what is read."""
    path = write_ledger(tmp_path / "a.jsonl", {})
    page, table = tmp_path / "p.html", tmp_path / "t.csv"
    table.write_text("mine", encoding="utf-8")
    make_report([path], Outputs(html=page))
    make_report([path], Outputs(html=page))
    with pytest.raises(ReportError, match="--force"):
        make_report([path], Outputs(csv=table))
    assert table.read_text(encoding="utf-8") == "mine"
    make_report([path], Outputs(csv=table, force=True))
    assert rows_of(table)[0]["invoice_id"] == "2601"
    before = path.read_bytes()
    for wrong, sentence in (
        (Outputs(jsonl=path, force=True), "is what is read here"),
        (Outputs(csv=tmp_path / "n", jsonl=tmp_path / "n"), "same name"),
        (Outputs(csv=tmp_path / "no" / "c.csv"), "is no folder"),
        (Outputs(csv=tmp_path, force=True), "no plain file"),
    ):
        with pytest.raises(ReportError, match=sentence):
            make_report([path], wrong)
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.jsonl", "p.html", "t.csv"]
    assert (page.stat().st_mode & 0o777, table.stat().st_mode & 0o777) == (0o600, 0o600)


# --- the page -------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Gathers the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_no_text_of_a_ledger_becomes_an_element_of_the_page(
    tmp_path: Path, write_ledger: WriteLedger
) -> None:
    """Ids, merchants, messages, currencies, and whatever a run says of itself."""
    rows = [
        {
            "invoice_id": text, "merchant_id": text, "message": text, "currency": text, "amount": "1.00",
            "reason": "refused", "at": text, "keep": {text: text},
        }
        for text in NASTY
    ]  # fmt: skip
    said: dict[str, Any] = {"operator": NASTY[0], "host": NASTY[1], "version": NASTY[2], "ref": NASTY[3]}
    path = write_ledger(
        tmp_path / "<b>a",
        *rows,
        env=NASTY[1],
        merchant_id=NASTY[0],
        state=RunState.STOPPED,
        why=NASTY[0],
        **said,
    )
    plain = write_ledger(
        tmp_path / "a", *({"reason": "refused", "merchant_id": f"m{n}", "amount": "1.00", "currency": f"C{n}",
                           "message": "m", "keep": {"k": "v"}} for n in range(len(NASTY))),
        state=RunState.STOPPED, why="w", ref="r",
    )  # fmt: skip
    found = []
    for number, ledger in enumerate((path, plain)):
        page = tmp_path / f"{number}.html"
        make_report([ledger], Outputs(html=page))
        tags = Tags()
        tags.feed(page.read_text(encoding="utf-8"))
        found.append(tags.found)
    hostile, usual = ([tag for tag, _ in tags] for tags in found)
    assert set(hostile) <= set(usual)
    assert hostile.count("script") == usual.count("script") == 2
    assert not [name for _, attributes in found[0] for name in attributes if name.startswith("on")]
    text = (tmp_path / "0.html").read_text(encoding="utf-8")
    assert not re.search("[\x00\x1b\u202e\u2028]", text)
    assert "49" not in re.findall(r"<td[^>]*>([^<]*)</td>", text)


def test_drawing_leaves_python_s_imports_as_they_are(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """Pygal's own finder would warn at every later import."""
    make_report([write_ledger(tmp_path / "a", {})], Outputs(html=tmp_path / "p.html"))
    assert [one for one in sys.meta_path if not hasattr(one, "find_spec")] == []


def test_the_page_forbids_every_request(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """By its policy, and no element names another place."""
    page = tmp_path / "p.html"
    make_report([write_ledger(tmp_path / "a", {}, {"reason": "paid"})], Outputs(html=page))
    tags = Tags()
    tags.feed(page.read_text(encoding="utf-8"))
    policies = [
        one["content"] for tag, one in tags.found if one.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert str(policies[0]).startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in str(policies[0])
    named = [value for _, one in tags.found for key, value in one.items() if key in {"src", "href", "action"}]
    assert named == ["data:,"]
    assert not [one for _, one in tags.found if "style" in one]


def test_kept_columns_are_not_on_the_page(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """They may be anything of a customer's; who asked for them has them in the exports."""
    page = tmp_path / "p.html"
    path = write_ledger(tmp_path / "a", {"keep": {"customer-name": "Jane-Example"}, "reason": "refused"})
    make_report([path], Outputs(html=page))
    text = page.read_text(encoding="utf-8")
    text += unpacked(text)
    assert "2601" in unpacked(text)
    assert "Jane-Example" not in text
    assert "customer-name" not in text


def test_the_rows_of_the_page_stand_in_the_order_of_the_ledger(
    tmp_path: Path, write_ledger: WriteLedger
) -> None:
    """Errors and others as they came, whatever of them is missing."""
    reasons = ("refused", "canceled", "paid")
    rows: list[dict[str, Any]] = [{"invoice_id": str(n), "reason": reasons[n * n % 3]} for n in range(99)]
    rows[7]["message"], rows[8]["latency_ms"] = "m", None
    make_report([write_ledger(tmp_path / "a", *rows)], Outputs(html=tmp_path / "p.html"))
    columns = json.loads(unpacked((tmp_path / "p.html").read_text(encoding="utf-8")))
    assert columns[0] == [row["invoice_id"] for row in rows]
    assert [len(column) for column in columns] == [99, 0, *[99] * 9]


def unpacked(page: str) -> str:
    """Return the JSON of the table's rows."""
    packed = re.search(r'id="rows">([^<]*)<', page)
    assert packed
    return gzip.decompress(base64.b64decode(packed[1])).decode()


def test_a_page_of_too_many_rows_has_the_errors_and_a_sample(
    tmp_path: Path, write_ledger: WriteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so; the same ledger gives the same rows."""
    monkeypatch.setattr(sample, "MAX_ROWS", 50)
    rows = [{"invoice_id": str(n), "reason": "refused" if n % 10 == 0 else "canceled"} for n in range(200)]
    path = write_ledger(tmp_path / "a", *rows)
    made = make_report([path], Outputs(html=tmp_path / "p.html"))
    make_report([path], Outputs(html=tmp_path / "q.html"))
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert made.written[0].rows == 50
    assert "50 of 200 invoices" in text
    assert "all 20 errors, and a random sample of 30 of the 180 others" in text
    assert unpacked(text) == unpacked((tmp_path / "q.html").read_text(encoding="utf-8"))

    monkeypatch.setattr(sample, "MAX_ROWS", 15)
    assert make_report([path], Outputs(html=tmp_path / "r.html")).written[0].rows == 15
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "a random sample of 15 of 20 errors, and a random sample of 0 of the 180 others" in text


def test_a_page_never_grows_beyond_its_limit(
    tmp_path: Path, write_ledger: WriteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where ids and messages are long and never alike, rows are left out, and that is said."""
    monkeypatch.setattr(sample, "_MOST_BYTES", (8_000, 8_000))
    rows = [{"invoice_id": os.urandom(30).hex(), "message": os.urandom(90).hex()} for _ in range(300)]
    made = make_report([write_ledger(tmp_path / "a", *rows)], Outputs(html=tmp_path / "p.html"))
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    packed = re.search(r'id="rows">([^<]*)<', text)
    assert packed
    assert len(packed[1]) <= 8_000
    assert 10 < made.written[0].rows < 300
    assert f"{made.written[0].rows} of 300 invoices" in text


@pytest.mark.parametrize(("count", "most_bytes"), [(300, 1_000_000), (5_000, 1_000_000)])
def test_the_page_is_as_small_as_promised(
    tmp_path: Path, write_ledger: WriteLedger, count: int, most_bytes: int
) -> None:
    """With ids and messages of the greatest length that never repeat."""
    rows = [
        {"invoice_id": os.urandom(32).hex(), "amount": f"{n}.99", "currency": "USD", "reason": "refused",
         "message": os.urandom(60).hex(), "at": f"2026-11-01T02:{n // 60 % 60:02}:{n % 60:02}.123Z"}
        for n in range(count)
    ]  # fmt: skip
    made = make_report([write_ledger(tmp_path / "a", *rows)], Outputs(html=tmp_path / "p.html"))
    assert made.written[0].size_bytes <= most_bytes
