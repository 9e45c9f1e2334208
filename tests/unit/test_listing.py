"""What belongs into a list, what is said of the rest, and how its rows are written; no socket."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batchcancel.cli.conditions import STATUSES as OFFERED
from batchcancel.cli.list_invoices import FORMATS as OFFERED_FORMATS
from batchcancel.errors import ReportError
from batchcancel.manifest import Format
from batchcancel.model import Invoice, Listing, ListProgressed, Page, Reason, Sighting, Skip, SkipReason
from batchcancel.observe.words import list_sentence
from batchcancel.settings import load_settings
from batchcancel.tasks.listing import (
    STATUSES,
    Fit,
    Row,
    Steadiness,
    Wanted,
    format_of,
    write_rows,
    write_rows_to,
)
from batchcancel.tasks.listing.collect import Collector, for_one_merchant
from batchcancel.tasks.listing.roll import Roll
from batchcancel.tasks.listing.rows import FORMATS
from batchcancel.tasks.listing.wanted import judge


def invoice(**fields: Any) -> Invoice:
    """Build an invoice as the list shows it."""
    usual: dict[str, Any] = {
        "id": "2675",
        "status": "SENT",
        "amount": "10.10",
        "currency": "USD",
        "due_date": "2026-01-31",
    }
    return Invoice(**(usual | fields))


def seconds(text: str) -> float:
    """Return the beginning of a day, UTC, as Unix seconds."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_the_command_offers_what_the_task_takes() -> None:
    """They are written twice, since help must not load the task."""
    assert OFFERED == STATUSES
    assert tuple(FORMATS) == OFFERED_FORMATS


# --- what belongs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "fields", "fit"),
    [
        pytest.param({}, {}, Fit.FITS, id="open"),
        pytest.param({}, {"status": "DRAFT"}, Fit.FITS, id="draft"),
        pytest.param({}, {"status": "PAID"}, Fit.OTHER, id="paid, though the service was asked for others"),
        pytest.param({}, {"status": None}, Fit.NO_STATUS, id="no status"),
        pytest.param({}, {"id": None}, Fit.NO_ID, id="no id"),
        pytest.param({}, {"id": "=1+1"}, Fit.NO_ID, id="a formula for an id"),
        pytest.param({}, {"id": " 2675"}, Fit.NO_ID, id="an id that a manifest's reader would trim"),
        pytest.param({}, {"id": "12345.0"}, Fit.NO_ID, id="an id that a run refuses"),
        pytest.param({}, {"amount": None, "due_date": None, "currency": None}, Fit.FITS, id="nothing asked"),
        pytest.param({"due_before": "2026-02-01"}, {}, Fit.FITS, id="due before"),
        pytest.param({"due_before": "2026-01-31"}, {}, Fit.OTHER, id="due on the day"),
        pytest.param({"due_from": "2026-01-31"}, {}, Fit.FITS, id="due from the day"),
        pytest.param({"due_from": "2026-02-01"}, {}, Fit.OTHER, id="due earlier"),
        pytest.param({"due_before": "2026-02-01"}, {"due_date": None}, Fit.NO_DUE_DATE, id="no due date"),
        pytest.param({"currencies": frozenset({"USD", "EUR"})}, {}, Fit.FITS, id="currency"),
        pytest.param({"currencies": frozenset({"EUR"})}, {}, Fit.OTHER, id="another currency"),
        pytest.param(
            {"currencies": frozenset({"EUR"})}, {"currency": None}, Fit.NO_CURRENCY, id="no currency"
        ),
        pytest.param({"min_amount": Decimal("10.1")}, {}, Fit.FITS, id="least amount itself"),
        pytest.param({"max_amount": Decimal("10.100")}, {}, Fit.FITS, id="greatest amount itself"),
        pytest.param({"min_amount": Decimal("10.11")}, {}, Fit.OTHER, id="less"),
        pytest.param({"max_amount": Decimal(9)}, {}, Fit.OTHER, id="more, as numbers and not as texts"),
        pytest.param({"max_amount": Decimal(9)}, {"amount": None}, Fit.NO_AMOUNT, id="no amount"),
        pytest.param(
            {"max_amount": Decimal("12345678901234567890.10")},
            {"amount": "12345678901234567890.11"},
            Fit.OTHER,
            id="more by a cent of twenty digits",
        ),
        pytest.param(
            {"created_from": 5.0, "created_before": 6.0}, {"created_at": 5.0}, Fit.FITS, id="created"
        ),
        pytest.param(
            {"currencies": frozenset({"EUR"}), "min_amount": Decimal(20)},
            {"currency": None},
            Fit.OTHER,
            id="no currency, and less",
        ),
        pytest.param({"created_before": 5.0}, {"created_at": 5.0}, Fit.OTHER, id="created later"),
        pytest.param({"created_before": 5.0}, {}, Fit.NO_CREATION, id="no date of creation"),
        pytest.param(
            {"created_before": 5.0, "currencies": frozenset({"EUR"})}, {}, Fit.OTHER, id="no look-up in vain"
        ),
        pytest.param(
            {"created_before": 5.0, "due_before": "2026-02-01"},
            {"due_date": None},
            Fit.NO_DUE_DATE,
            id="no look-up that can't help",
        ),
    ],
)
def test_an_invoice_is_wanted_or_not_or_it_is_not_known(
    wanted: dict[str, Any], fields: dict[str, Any], fit: Fit
) -> None:
    """What one condition rules out, no missing field of another makes doubtful."""
    assert judge(invoice(**fields), Wanted(**wanted)) is fit


def test_the_last_word_on_an_invoice_counts() -> None:
    """It is met again where the list moved, and may not fit any more."""
    roll = Roll(Wanted(due_before="2026-02-01"))
    roll.take(invoice())
    roll.take(invoice(id="2"))
    roll.take(invoice(id="3", due_date=None))
    roll.take(invoice(status="PAID"))
    roll.take(invoice(id=None))
    assert (list(roll.rows), roll.doubtful) == (["2"], {"3": Fit.NO_DUE_DATE})
    later = Roll(Wanted(due_before="2026-02-01"))
    later.take(invoice(id="3"))
    later.take(invoice(id="2", due_date=None))
    roll.merge(later)
    assert (list(roll.rows), roll.doubtful) == (["3"], {"2": Fit.NO_DUE_DATE})


def sighting(**fields: Any) -> Sighting:
    """Build what a look-up found of invoice 2675."""
    usual: dict[str, Any] = {
        "row": 1,
        "invoice_id": "2675",
        "reason": None,
        "invoice_status": "SENT",
        "created_at": "2026-01-05T00:00:00.000Z",
        "at": "2026-02-01T00:00:00.000Z",
    }
    return Sighting(**(usual | fields))


@pytest.mark.parametrize(
    ("fields", "rows", "doubtful"),
    [
        pytest.param({}, ["2675"], {}, id="created before"),
        pytest.param({"created_at": "2026-01-20T00:00:00.000Z"}, [], {}, id="created later"),
        pytest.param({"invoice_status": "PAID", "reason": Reason.PAID}, [], {}, id="paid meanwhile"),
        pytest.param({"invoice_status": None, "reason": Reason.NOT_FOUND}, [], {}, id="gone meanwhile"),
        pytest.param({"created_at": None}, [], {"2675": Fit.NO_CREATION}, id="no date there either"),
        pytest.param(
            {"invoice_status": None, "reason": Reason.NETWORK, "created_at": None},
            [],
            {"2675": Fit.NO_CREATION},
            id="not read",
        ),
    ],
)
def test_a_look_up_dates_an_invoice(
    fields: dict[str, Any], rows: list[str], doubtful: dict[str, Fit]
) -> None:
    """Its status counts as it is by then."""
    roll = Roll(Wanted(created_before=seconds("2026-01-10")))
    roll.take(invoice())
    assert list(roll.undated) == ["2675"]
    roll.take_look_up(sighting(**fields))
    assert (list(roll.rows), roll.doubtful, roll.undated) == (rows, doubtful, {})


# --- collecting -----------------------------------------------------------------------------------


class Shelf:
    """A list of each status, and what happens to it after each page."""

    def __init__(self, **lists: list[Invoice]) -> None:
        self.lists = lists
        self.asked: list[str | None] = []
        self.total_beyond = 0
        """How many more are counted than listed."""
        self.after_page: Callable[[list[Invoice]], None] = lambda _rows: None

    async def read(self, page: Page) -> Listing:
        """Answer as the service does."""
        self.asked.append(page.status)
        rows = self.lists.get(page.status or "", [])
        cut = tuple(rows[page.offset : page.offset + page.limit])
        listing = Listing(total=len(rows) + self.total_beyond if cut else None, invoices=cut)
        self.after_page(rows)
        return listing


def many(count: int, **fields: Any) -> list[Invoice]:
    """Build invoices with ids of their own."""
    return [invoice(id=f"{fields.get('status', 'SENT')}{number}", **fields) for number in range(count)]


async def test_every_status_is_read_in_the_order_of_a_life() -> None:
    """An invoice that goes on while the list is read is met again instead of missed; the last word counts."""
    shelf = Shelf(DRAFT=many(3, status="DRAFT"), SENT=many(2100))

    def send(rows: list[Invoice]) -> None:
        if rows is shelf.lists["DRAFT"]:
            shelf.lists["SENT"].insert(0, invoice(id=rows[0].id))

    shelf.after_page = send
    events: list[Any] = []
    collector = Collector(Wanted(statuses=("DRAFT", "SENT")), on_event=events.append)
    await collector.read(shelf)
    found = collector.found("merchant")
    assert shelf.asked == ["DRAFT", "SENT", "SENT", "SENT"]
    statuses = {row.id: row.status for row in found.rows}
    assert (len(found.rows), statuses["DRAFT0"], statuses["DRAFT1"]) == (2103, "SENT", "DRAFT")
    assert (found.read, found.pages, found.is_whole, found.unsettled) == (2104, 4, True, ())
    assert events[-1] == ListProgressed(rows=2104, status="SENT", total=2101)


async def test_a_list_that_moves_once_is_read_once_more() -> None:
    """Only the second time counts: what has gone meanwhile is not there any more."""
    shelf = Shelf(SENT=many(1500))

    def pay(rows: list[Invoice]) -> None:
        if len(shelf.asked) == 1:
            del rows[5]

    shelf.after_page = pay
    collector = Collector(Wanted(statuses=("SENT",)))
    await collector.read(shelf)
    found = collector.found("merchant")
    assert (len(found.rows), found.read, len(shelf.asked), found.unsettled) == (1499, 1499, 4, ())
    assert "SENT5" not in {row.id for row in found.rows}


async def test_a_list_that_always_moves_is_taken_and_said_where_its_pages_hold_together() -> None:
    """Three times, then the last one counts: what stayed in its place is there."""
    shelf = Shelf(SENT=many(1500))
    shelf.after_page = lambda rows: rows.insert(0, invoice(id=f"new{len(rows)}"))
    collector = Collector(Wanted(statuses=("SENT",)))
    await collector.read(shelf)
    found = collector.found("merchant")
    assert [(one.status, one.steadiness) for one in found.unsettled] == [("SENT", Steadiness.MOVED)]
    assert {f"SENT{number}" for number in range(1500)} <= {row.id for row in found.rows}
    assert (len(shelf.asked), found.is_torn, found.is_whole) == (6, False, True)


async def test_a_torn_list_ends_the_reading() -> None:
    """Nothing more is asked, no look-up either, since nothing will be written."""
    shelf = Shelf(SENT=many(9000), PAID=many(10, status="PAID"))
    shelf.after_page = lambda rows: rows.__delitem__(slice(0, 100))
    collector = Collector(Wanted(statuses=("SENT", "PAID"), created_before=1.0))
    await collector.read(shelf)
    found = collector.found("merchant")
    assert (found.is_torn, found.is_whole) == (True, False)
    assert "PAID" not in shelf.asked
    assert collector.rows_to_look_up() == ()


async def test_what_can_t_be_judged_is_left_out_and_counted() -> None:
    """Rows without a readable id too; a list that is short is not whole either."""
    rows = [invoice(), invoice(id=None), invoice(id="b d"), invoice(id="3", amount=None)]
    collector = Collector(Wanted(statuses=("SENT",), min_amount=Decimal(1)))
    await collector.read(Shelf(SENT=rows))
    found = collector.found("merchant")
    assert [row.id for row in found.rows] == ["2675"]
    assert (found.doubtful, found.is_whole) == ({Fit.NO_ID: 2, Fit.NO_AMOUNT: 1}, False)
    collector = Collector(Wanted(statuses=("SENT",)))
    shelf = Shelf(SENT=[invoice()])
    shelf.total_beyond = 1
    await collector.read(shelf)
    found = collector.found("merchant")
    assert ([one.steadiness for one in found.unsettled], found.is_whole) == ([Steadiness.SHORT], False)


async def test_a_row_that_nobody_was_asked_about_is_a_defect() -> None:
    """Every id is valid and stands once."""
    with pytest.raises(AssertionError, match="Skip"):
        await Collector(Wanted()).append(Skip(row=1, invoice_id="1", why=SkipReason.DUPLICATE))


def test_a_list_is_about_one_merchant_and_all_of_its_invoices(tmp_path: Path) -> None:
    """What a configuration file says of a run's rows is not about a list."""
    config = tmp_path / "batchcancel.toml"
    config.write_text(
        'limit = 5\nmax_duration = 1\nmerchant_column = "m"\nrate_per_merchant = 7\n', encoding="utf-8"
    )
    environ = {"HOME": str(tmp_path), "BATCHCANCEL_CONFIG": str(config)}
    settings = for_one_merchant(load_settings((), for_run=False, environ=environ, env="sandbox"))
    options = settings.options
    assert (options.limit, options.max_duration, options.merchant_column) == (None, None, None)
    assert (options.rate_per_merchant, settings.rate) == (None, 7)
    faster = load_settings((), for_run=False, environ=environ, env="sandbox", rate=5)
    assert for_one_merchant(faster).rate == 5
    plain = load_settings((), for_run=False, environ={"HOME": str(tmp_path)}, env="sandbox")
    assert for_one_merchant(plain).rate is None


# --- writing --------------------------------------------------------------------------------------

ROWS = [
    Row(id="0042", status="SENT", due="2026-01-31", amount="10.10", currency="USD"),
    Row(id="A-1", status="DRAFT", due=None, amount=None, currency=None),
]
CSV = "id,status,due,amount,currency\n0042,SENT,2026-01-31,10.10,USD\nA-1,DRAFT,,,\n"
JSONL = (
    '{"id":"0042","status":"SENT","due":"2026-01-31","amount":"10.10","currency":"USD"}\n'
    '{"id":"A-1","status":"DRAFT","due":null,"amount":null,"currency":null}\n'
)


@pytest.mark.parametrize(("format_", "text"), [(Format.CSV, CSV), (Format.JSONL, JSONL)])
def test_rows_are_written_as_they_were_received(tmp_path: Path, format_: Format, text: str) -> None:
    """Zeros stay, and what is not said is empty or null; a file is private, and may be packed."""
    out = io.StringIO()
    write_rows(out, ROWS, format_)
    assert out.getvalue() == text
    plain, packed = tmp_path / "list", tmp_path / "list.csv.gz"
    write_rows_to(plain, ROWS, format_)
    write_rows_to(packed, ROWS, format_)
    assert plain.read_text(encoding="ascii") == gzip.decompress(packed.read_bytes()).decode() == text
    assert plain.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list", "list.csv.gz"]


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """What was there before stays if the rows break off."""
    path = tmp_path / "list.csv"
    path.write_text("before", encoding="utf-8")

    def broken() -> Iterator[Row]:
        yield ROWS[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(ReportError, match="No space left"):
        write_rows_to(path, broken(), Format.CSV)
    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        (None, Format.CSV),
        ("list", Format.CSV),
        ("LIST.CSV", Format.CSV),
        ("list.jsonl", Format.JSONL),
        ("list.ndjson.gz", Format.JSONL),
    ],
)
def test_the_name_tells_the_format_as_it_will_to_a_run(name: str | None, format_: Format) -> None:
    """CSV where it says nothing."""
    assert format_of(None if name is None else Path(name)) is format_


@pytest.mark.parametrize("name", ["list.txt", "list.tsv.gz"])
def test_a_name_that_a_run_would_read_otherwise_is_refused(name: str) -> None:
    """It would not find the ids, or take the header for one."""
    with pytest.raises(ReportError, match="would be read as t"):
        format_of(Path(name))


# --- progress -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("so_far", "said"),
    [
        (ListProgressed(rows=0), "0 invoices read"),
        (
            ListProgressed(rows=1000, status="SENT", total=38449),
            "1,000 invoices read; there are 38,449 of status SENT",
        ),
        (ListProgressed(rows=5000, status="SENT"), "5,000 invoices read"),
        (ListProgressed(rows=38449, to_look_up=1200, looked_up=7), "7 of 1,200 invoices looked up"),
    ],
    ids=["nothing-yet", "of-a-total", "no-total", "looked-up"],
)
def test_a_sentence_says_how_far_it_is(so_far: ListProgressed, said: str) -> None:
    """Pages first, then what they did not say."""
    assert list_sentence(so_far) == said
