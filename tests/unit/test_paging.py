"""Paging a list that others change meanwhile: what was noticed, and what can't be missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchcancel.model import Invoice, Listing, Page
from batchcancel.tasks.listing.paging import Pass, Steadiness

Rows = list[str]
Change = Callable[[Rows], None]


def page_of(rows: Sequence[str | None], page: Page, *, total: int | None = None) -> Listing:
    """Answer as the service does: a slice, and the total; nothing found is an empty page without one."""
    cut = rows[page.offset : page.offset + page.limit]
    invoices = tuple(Invoice(id=one) for one in cut)
    return Listing(total=(len(rows) if total is None else total) if cut else None, invoices=invoices)


def read(rows: Rows, *changes: Change, page_rows: int = 10, overlap_rows: int = 3) -> Pass:
    """Read a list to its end; after each page it changes."""
    one = Pass(status="SENT", page_rows=page_rows, overlap_rows=overlap_rows)
    left = list(changes)
    while not one.is_over:
        one.take(page_of(rows, one.page))
        if left:
            left.pop(0)(rows)
    return one


def names(count: int) -> Rows:
    """Return ids of invoices, in the order of a list."""
    return [f"{number:04}" for number in range(count)]


def nothing(_: Rows) -> None:
    """Change nothing."""


@pytest.mark.parametrize("count", [0, 1, 2, 9, 10, 11, 17, 18, 100])
def test_a_list_that_rests_is_read_steadily_to_its_last_invoice(count: int) -> None:
    """At every length, around the limits of a page."""
    one = read(names(count))
    assert (one.steadiness, one.ids) == (Steadiness.STEADY, set(names(count)))
    assert one.total in {count, None}


def test_pages_overlap_and_keep_their_filter() -> None:
    """Each begins with the last rows of the one before."""
    one = Pass(status="SENT", page_rows=10, overlap_rows=3)
    asked = []
    while not one.is_over:
        asked.append(one.page)
        one.take(page_of(names(25), one.page))
    assert asked == [Page(offset=offset, limit=10, status="SENT") for offset in (0, 7, 14, 21)]


@pytest.mark.parametrize(
    ("change", "steadiness", "missing"),
    [
        pytest.param(lambda rows: rows.insert(0, "new"), Steadiness.MOVED, set(), id="created at the front"),
        pytest.param(lambda rows: rows.append("new"), Steadiness.MOVED, set(), id="created at the end"),
        pytest.param(lambda rows: rows.remove("0002"), Steadiness.MOVED, set(), id="one gone that was read"),
        pytest.param(
            lambda rows: rows.remove("0020"), Steadiness.MOVED, {"0020"}, id="one gone that was not"
        ),
        pytest.param(
            lambda rows: rows.__delitem__(slice(2)), Steadiness.MOVED, set(), id="fewer gone than overlap"
        ),
        pytest.param(
            lambda rows: rows.__delitem__(slice(3, 10)), Steadiness.TORN, None, id="more gone than overlap"
        ),
        pytest.param(lambda rows: rows.__delitem__(slice(0, 30)), Steadiness.TORN, None, id="all gone"),
        pytest.param(
            lambda rows: rows.insert(0, rows.pop(15)), Steadiness.MOVED, {"0015"}, id="one moved forward"
        ),
        pytest.param(lambda rows: rows.insert(29, rows.pop(2)), Steadiness.MOVED, set(), id="one moved back"),
    ],
)
def test_a_change_between_two_pages_is_noticed(
    change: Change, steadiness: Steadiness, missing: set[str] | None
) -> None:
    """Whatever it is; and as long as pages are tied, nothing is missing that stayed in its place."""
    one = read(names(30), change)
    assert one.steadiness is steadiness
    assert missing is None or set(names(30)) - one.ids == missing


def test_one_created_and_one_gone_leave_the_total_and_are_noticed() -> None:
    """The total alone would say that nothing happened, and one invoice would be skipped."""

    def swap(rows: Rows) -> None:
        del rows[2]
        rows.append("new")

    one = read(names(30), swap)
    assert one.steadiness is Steadiness.MOVED
    assert one.ids == {*names(30), "new"}


def test_rows_without_an_id_are_counted_once() -> None:
    """They are rows of the list, and rows that two pages share are not counted twice."""
    rows: list[str | None] = [*names(20)]
    rows[8] = rows[12] = None
    one = Pass(status=None, page_rows=10, overlap_rows=3)
    while not one.is_over:
        one.take(page_of(rows, one.page))
    assert (one.steadiness, one.nameless, one.rows) == (Steadiness.STEADY, 2, 20)


def test_rows_without_an_id_are_counted_once_where_the_list_moved_too() -> None:
    """What stands before the tie was counted with the page before."""
    rows: list[str | None] = [*names(20)]
    rows[8] = None
    one = Pass(status=None, page_rows=10, overlap_rows=3)
    while not one.is_over:
        one.take(page_of(rows, one.page))
        if one.pages == 1:
            del rows[0]
    assert (one.steadiness, one.nameless) == (Steadiness.MOVED, 1)


def test_pages_that_share_only_rows_without_ids_are_not_tied() -> None:
    """Nothing shows that they are the same rows."""
    rows: list[str | None] = [*names(7), None, None, None, *names(20)[7:]]
    one = Pass(status=None, page_rows=10, overlap_rows=3)
    while not one.is_over:
        one.take(page_of(rows, one.page))
    assert one.steadiness is Steadiness.TORN


def test_an_invoice_twice_on_a_page_is_noticed() -> None:
    """It may stand where another one should."""
    assert read([*names(5), "0001"]).steadiness is Steadiness.MOVED


def test_an_invoice_twice_is_noticed_without_a_total_too() -> None:
    """Nothing else would tell."""
    one = Pass(status=None)
    while not one.is_over:
        listing = page_of([*names(5), "0001"], one.page)
        one.take(Listing(total=None, invoices=listing.invoices))
    assert one.steadiness is Steadiness.MOVED


@pytest.mark.parametrize(
    ("total", "steadiness"),
    [(29, Steadiness.MOVED), (31, Steadiness.SHORT), (10**9, Steadiness.SHORT)],
    ids=str,
)
def test_a_total_that_does_not_fit_is_noticed_and_ends_nothing_early(
    total: int, steadiness: Steadiness
) -> None:
    """It may count what the filter leaves out; what comes is read, and what does not is not waited for."""
    one = Pass(status="SENT", page_rows=10, overlap_rows=3)
    while not one.is_over:
        one.take(page_of(names(30), one.page, total=total))
    assert one.steadiness is steadiness
    assert len(one.ids) >= 29


def test_a_total_of_the_page_alone_ends_nothing_early() -> None:
    """The examples say otherwise, but a list that ends after a page would miss all the rest in silence."""
    one = Pass(status="SENT", page_rows=10, overlap_rows=3)
    while not one.is_over:
        listing = page_of(names(30), one.page)
        one.take(Listing(total=len(listing.invoices), invoices=listing.invoices))
    assert (one.steadiness, one.ids) == (Steadiness.MOVED, set(names(30)))


def test_a_total_without_any_invoice_is_no_empty_list() -> None:
    """Something is counted that is not shown."""
    one = Pass(status=None)
    one.take(Listing(total=7, invoices=()))
    assert (one.is_over, one.steadiness, one.rows) == (True, Steadiness.SHORT, 0)


def test_without_a_total_the_list_ends_where_nothing_new_comes() -> None:
    """Ties alone hold the pages together then."""
    one = Pass(status=None, page_rows=10, overlap_rows=3)
    while not one.is_over:
        listing = page_of(names(25), one.page)
        one.take(Listing(total=None, invoices=listing.invoices))
    assert (one.steadiness, one.ids) == (Steadiness.STEADY, set(names(25)))


@pytest.mark.parametrize(
    ("total", "steadiness"),
    [(None, Steadiness.MOVED), (100, Steadiness.TORN)],
    ids=["without a total", "with a total"],
)
def test_a_service_that_gives_the_same_page_for_ever_is_noticed(
    total: int | None, steadiness: Steadiness
) -> None:
    """It ends, and it is no whole list."""
    one = Pass(status=None, page_rows=10, overlap_rows=3)
    for _ in range(50):
        if one.is_over:
            break
        one.take(Listing(total=total, invoices=tuple(Invoice(id=name) for name in names(10))))
    assert (one.is_over, one.steadiness) == (True, steadiness)


def test_a_service_that_gives_less_than_was_asked_for_is_read_on() -> None:
    """Its own limit may be lower; the overlap is smaller then, so that every page brings new ones."""
    one, asked = Pass(status=None, page_rows=10, overlap_rows=9), 0
    while not one.is_over:
        listing = page_of(names(30), one.page)
        one.take(Listing(total=30, invoices=listing.invoices[:4]))
        asked += 1
    assert (one.steadiness, one.ids, asked) == (Steadiness.STEADY, set(names(30)), 14)


def test_a_list_that_grows_faster_than_it_is_read_is_given_up() -> None:
    """Nobody waits for an end that does not come."""

    def grow(rows: Rows) -> None:
        rows[:0] = [f"new{len(rows) + number}" for number in range(10)]

    assert read(names(30), *[grow] * 100).steadiness is Steadiness.TORN


# --- any interleaving -----------------------------------------------------------------------------

PLACES = st.floats(0, 1, exclude_max=True)
CREATE = st.tuples(st.just("create"), PLACES, PLACES)
GO = st.tuples(st.just("go"), PLACES, PLACES)
MOVE = st.tuples(st.just("move"), PLACES, PLACES)
Act = tuple[str, float, float]


def apply(rows: Rows, acts: list[Act], gone: set[str]) -> None:
    """Change a list at places that are shares of its length."""
    for number, (what, here, there) in enumerate(acts):
        if what == "create":
            rows.insert(int(here * (len(rows) + 1)), f"new{len(gone)}-{number}-{here}-{there}")
        elif rows and what == "go":
            gone.add(rows.pop(int(here * len(rows))))
        elif rows:
            rows.insert(int(there * len(rows)), rows.pop(int(here * len(rows))))


def read_while(acts: list[list[Act]], count: int) -> tuple[Pass, set[str]]:
    """Read a list that changes after each page; return the pass and what was there all along."""
    gone: set[str] = set()
    changes = [lambda rows, group=group: apply(rows, group, gone) for group in acts]
    return read(names(count), *changes), set(names(count)) - gone


@settings(max_examples=300)
@given(st.lists(st.lists(CREATE, max_size=12), max_size=8), st.integers(0, 60))
def test_no_interleaving_of_creations_makes_a_gap(acts: list[list[Act]], count: int) -> None:
    """What was there from the first page to the last is read, and that something came is noticed."""
    one, stayed = read_while(acts, count)
    assert stayed <= one.ids or one.steadiness is Steadiness.TORN
    if any(acts[: one.pages - 1]):  # what comes after the last page concerns nobody
        assert one.steadiness is not Steadiness.STEADY


@settings(max_examples=300)
@given(st.lists(st.lists(st.one_of(CREATE, GO), max_size=12), max_size=8), st.integers(0, 60))
def test_no_interleaving_of_creations_and_endings_makes_a_silent_gap(
    acts: list[list[Act]], count: int
) -> None:
    """What stayed in its place is read, or the pass is torn: then nothing is written."""
    one, stayed = read_while(acts, count)
    assert stayed <= one.ids or one.steadiness is Steadiness.TORN


@settings(max_examples=300)
@given(st.lists(st.lists(MOVE, max_size=6), max_size=8), st.integers(0, 60))
def test_no_change_of_the_order_makes_a_steady_gap(acts: list[list[Act]], count: int) -> None:
    """The service promises no order: what moves may be missed, but never by a pass that is called steady."""
    one, stayed = read_while(acts, count)
    assert stayed <= one.ids or one.steadiness is not Steadiness.STEADY
