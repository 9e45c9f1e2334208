"""One pass over the list, page by page, while others may change it. Pure.

The list moves under whoever reads it: invoices are created, canceled and paid, and each of these shifts
the others to another offset. So every page begins with the last rows of the page before it. As long as
a page has any invoice in common with the one before, it is *tied* to it: an invoice that stays in the
list, between the same others, can't have been skipped, whatever came and went. A page that has none in
common *tears* the pass: more invoices may have gone in between than the pages overlap. The service does
not promise an order, so a pass is *steady* only if nothing moved at all: the same total on every page,
the same rows where two pages overlap, no invoice twice, and as many as the total says. A pass is *short* if
nothing moved and the service counts more invoices than it lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from batchcancel.model import Listing, Page

PAGE_ROWS: Final = 1000
"""The most that the service gives at once (api/invoicing.md, 4.3)."""
OVERLAP_ROWS: Final = 50
_SPARE_PAGES: Final = 10


class Steadiness(StrEnum):
    """How a pass has gone so far, from good to bad."""

    STEADY = "steady"
    """Nothing moved."""
    MOVED = "moved"
    """Something moved; what stayed in its place was read."""
    SHORT = "short"
    """Nothing moved, and the service counts more than it lists."""
    TORN = "torn"
    """Two pages have nothing in common, or a page brings nothing: what stayed in its place may be missing."""


class Pass:
    """One reading of the list from its first page to its last.

    Ask for ``page``, give what came to ``take``, until ``is_over``. It holds the id of every invoice.
    """

    def __init__(
        self, *, status: str | None, page_rows: int = PAGE_ROWS, overlap_rows: int = OVERLAP_ROWS
    ) -> None:
        """Begin at the first page.

        Args:
            status: What the service is to filter by; None for all.
            page_rows: Invoices to ask for at once, more than ``overlap_rows``.
            overlap_rows: How many of a page's last rows the next one begins with, 1 or more.
        """
        self.page = Page(offset=0, limit=page_rows, status=status)
        """What to ask for next; of no account once it is over."""
        self.is_over = False
        self.steadiness = Steadiness.STEADY
        self.total: int | None = None
        """How many invoices the list has, as the last page said; None where that is not said."""
        self.pages = 0
        """How many pages came."""
        self.nameless = 0
        """Rows without a readable id."""
        self.ids: set[str] = set()
        """Every invoice that was read."""
        self._overlap_rows = overlap_rows
        self._first_total = 0
        self._before: Sequence[str | None] = ()
        """The page before this one, by its ids."""
        self._common = 0
        """How many of its last rows this page is to begin with."""

    @property
    def rows(self) -> int:
        """How many invoices were read."""
        return len(self.ids) + self.nameless

    def take(self, listing: Listing) -> None:
        """Take what came for ``page``, and go on to the next one."""
        ids = [invoice.id for invoice in listing.invoices]
        self.pages += 1
        self._note_total(listing.total)
        rows_before = self.rows
        self._note_rows(ids, begin=self._tie(ids) if self.pages > 1 else 0)
        if self._is_last(ids, brings_new=self.rows > rows_before):
            self._end()
            return
        self._before = ids
        self._common = min(self._overlap_rows, max(1, len(ids) // 2))
        offset = self.page.offset + len(ids) - self._common
        self.page = Page(offset=offset, limit=self.page.limit, status=self.page.status)

    def _note_total(self, total: int | None) -> None:
        if total is None:
            return
        if self.total is None:
            self._first_total = total
        elif total != self.total:
            self._note(Steadiness.MOVED)
        self.total = total

    def _tie(self, ids: Sequence[str | None]) -> int:
        """Tie a page to the one before; return where its rows begin that come after the tie."""
        common = list(self._before[-self._common :])
        if ids[: self._common] == common and any(common):
            return self._common
        before = {one for one in self._before if one is not None}
        ties = [place for place, one in enumerate(ids) if one in before]
        self._note(Steadiness.MOVED if ties else Steadiness.TORN)
        return ties[-1] + 1 if ties else 0

    def _note_rows(self, ids: Sequence[str | None], *, begin: int) -> None:
        for place, one in enumerate(ids):
            if one is None:
                self.nameless += place >= begin
            elif one not in self.ids:
                self.ids.add(one)
            elif place >= begin:
                self._note(Steadiness.MOVED)

    def _is_last(self, ids: Sequence[str | None], *, brings_new: bool) -> bool:
        if len(ids) <= self._common:  # whatever the total says, nothing follows
            return True
        if self.total is None:
            return not brings_new
        step = self.page.limit - self._overlap_rows
        if not brings_new or self.pages >= 2 * self._first_total // step + _SPARE_PAGES:
            self._note(
                Steadiness.TORN
            )  # it grows faster than it is read, or pages are not what was asked for
            return True
        # A full page is never taken for the last one, in case the total counts only what is on it.
        return len(ids) < self.page.limit and self.page.offset + len(ids) >= self.total

    def _end(self) -> None:
        self.is_over = True
        if self.total is not None and self.rows != self.total:
            is_short = self.steadiness is Steadiness.STEADY and self.rows < self.total
            self._note(Steadiness.SHORT if is_short else Steadiness.MOVED)

    def _note(self, steadiness: Steadiness) -> None:
        self.steadiness = max(self.steadiness, steadiness, key=list(Steadiness).index)
