"""The report's page as a person meets it: in a real browser, by mouse and by keyboard, wide and narrow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchcancel.report.make import Outputs, make_report

if TYPE_CHECKING:
    from tests.browser.conftest import Browser, Page
    from tests.conftest import WriteLedger

NASTY = "</script><img src=http://127.0.0.1:9/x onerror=document.title='owned'>"
READY = "/^Rows|^No/.test(document.getElementById('status').textContent)"


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory, write_ledger: WriteLedger) -> Path:
    """Make a page with every kind of row, many of them, hostile and long ones among them."""
    folder = tmp_path_factory.mktemp("page")
    rows: list[dict[str, Any]] = [
        {
            "invoice_id": f"{n:05}",
            "reason": ("canceled", "paid", "partial", "not_found", "refused")[n % 5],
            "amount": f"{n * 7 % 250}.50",
            "currency": ("USD", "EUR")[n % 2],
            "at": f"2026-11-01T02:{n // 60:02}:{n % 60:02}.123Z",
        }
        for n in range(250)
    ]
    rows += [
        {"invoice_id": NASTY, "merchant_id": NASTY, "reason": "refused", "message": NASTY, "currency": NASTY},
        {"invoice_id": "W" * 64, "reason": "refused", "message": "W" * 200, "at": "2026-11-01T03:00:00.000Z"},
    ]
    ledger = write_ledger(folder / "l.jsonl", *rows, ref="W" * 200, operator=NASTY)
    make_report([ledger], Outputs(html=folder / "page.html"))
    return folder / "page.html"


@pytest.fixture
def page(browser: Browser, page_path: Path) -> Page:
    """Open the page, wide."""
    opened = browser.open(page_path)
    opened.wait_until(READY)
    return opened


def first_cells(page: Page, column: str) -> list[str]:
    """Return the first five cells under a header."""
    cells: list[str] = page.evaluate(
        "(() => { const at = [...document.querySelectorAll('#table thead th')].filter(one => !one.hidden)"
        f".findIndex(one => one.textContent === '{column}');"
        "return [...document.querySelectorAll('#table tbody tr')].slice(0, 5)"
        ".map(row => row.children[at].textContent); })()"
    )
    return cells


def status(page: Page) -> str:
    """Return what the table says of itself."""
    return str(page.evaluate("document.getElementById('status').textContent"))


def click(page: Page, selector: str) -> None:
    """Click an element."""
    page.evaluate(f"document.querySelector({selector!r}).click()")


def test_it_opens_without_a_fault_and_asks_for_nothing(page: Page, page_path: Path) -> None:
    """No error, warning or refused load in the console, and hostile text is text."""
    assert status(page) == "Rows 1 to 100 of 252"
    page.evaluate("document.getElementById('search').value = 'onerror'")
    page.evaluate("document.getElementById('search').dispatchEvent(new Event('input'))")
    page.wait_until("document.getElementById('status').textContent.includes('found')")
    assert first_cells(page, "Invoice") == [NASTY]
    assert page.evaluate("document.images.length") == 0
    assert str(page.evaluate("document.title")).startswith("batchcancel report")
    assert page.requests() == [page_path.as_uri()]
    assert page.faults() == []


def test_even_a_script_in_the_page_could_ask_for_nothing(page: Page) -> None:
    """The policy holds, whatever would get past the escaping."""
    fetched = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name)")
    assert fetched == "TypeError"
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.owned=1\">')")
    page.wait_until("document.images[0].complete")
    assert page.evaluate("window.owned === undefined")
    said = " ".join(page.faults())
    assert "Content Security Policy" in said
    assert "connect-src" in said


def test_search_and_filters_work_together(page: Page) -> None:
    """By mouse and keyboard; nothing found is said."""
    page.evaluate("document.getElementById('search').focus()")
    page.type("0024 PAID")
    page.wait_until("document.getElementById('status').textContent.includes('of 4, found among 252')")
    assert first_cells(page, "Invoice") == ["00241", "00242", "00246", "00247"]
    page.evaluate("document.getElementById('outcome').value = 'already_paid'")
    page.evaluate("document.getElementById('outcome').dispatchEvent(new Event('change'))")
    assert first_cells(page, "Invoice") == ["00241", "00246"]
    page.type("nothing")
    page.wait_until("document.getElementById('status').textContent === 'No invoice is like that.'")
    assert page.faults() == []


def test_headers_sort_by_keyboard_numbers_as_numbers(page: Page) -> None:
    """Enter sorts, once more turns round; screen readers are told; what is missing comes last."""
    page.evaluate("[...document.querySelectorAll('#table th button')][4].focus()")
    page.press("Enter")
    assert first_cells(page, "Amount") == ["0.50", "1.50", "2.50", "3.50", "4.50"]
    assert page.evaluate("document.querySelector('[aria-sort]').ariaSort") == "ascending"
    page.press("Enter")
    assert first_cells(page, "Amount")[0] == "249.50"
    assert page.evaluate("document.querySelector('[aria-sort]').ariaSort") == "descending"
    page.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Balance"
    click(page, "#on")
    assert status(page) == "Rows 101 to 200 of 252"
    click(page, "#on")
    last_row = "[...document.querySelectorAll('#table tbody tr')].at(-1)"
    assert page.evaluate(f"{last_row}.children[4].textContent") == ""
    assert page.evaluate("document.getElementById('on').disabled")


@pytest.mark.parametrize("width", [380, 1400])
def test_nothing_overflows(page: Page, width: int) -> None:
    """What is wider scrolls in a frame of its own, which the keyboard reaches."""
    page.resize(width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(one => !one.closest('.scroll'))"
        ".filter(one => one.getBoundingClientRect().right > innerWidth + 1)"
        ".map(one => one.outerHTML.slice(0, 80))"
    )
    assert wide == []
    frames = "[...document.querySelectorAll('.scroll')]"
    assert page.evaluate(f"{frames}.every(one => one.tabIndex === 0 && one.getAttribute('aria-label'))")
    labels = page.evaluate(
        "[...document.querySelectorAll('.chart text')].filter(one => {"
        " const text = one.getBoundingClientRect(), chart = one.closest('svg').getBoundingClientRect();"
        " return text.width && (text.right > chart.right + 1 || text.left < chart.left - 1); })"
        ".map(one => one.textContent)"
    )
    assert labels == []


def test_no_cell_s_text_runs_into_the_next(page: Page) -> None:
    """Whatever an invoice and its merchant are called."""
    overflowing = (
        "[...document.querySelectorAll('td, th')].filter(one => one.offsetWidth)"
        ".filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent)"
    )
    assert page.evaluate(overflowing) == []
    for words in ("onerror", "wwwww"):
        page.evaluate(f"document.getElementById('search').value = {words!r}")
        page.evaluate("document.getElementById('search').dispatchEvent(new Event('input'))")
        only = f"document.querySelector('#table tbody').textContent.toLowerCase().includes({words!r})"
        page.wait_until(f"{only} && document.querySelectorAll('#table tbody tr').length === 1")
        assert page.evaluate(overflowing) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_and_charts_have_contrast(browser: Browser, page_path: Path, *, dark: bool) -> None:
    """Text 4.5 to 1 and the parts of charts 3 to 1 against what lies behind them, as WCAG 2.2 AA asks."""
    page = browser.open(page_path, dark=dark)
    ratios: dict[str, float] = page.evaluate(
        """(() => {
          const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
          const light = (rgb) => { const [r, g, b] = rgb.match(/[\\d.]+/g).map(Number).map(channel);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
          const of = (name) => {
            const value = getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
            const hex = value.slice(1);
            return light([0, 2, 4].map(at => parseInt(hex.slice(at, at + 2), 16)).join(',')); };
          const ratio = (one, other) => { const [a, b] = [of(one), of(other)];
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };
          const pairs = {};
          for (const text of ['ink', 'soft', 'accent', 'final', 'paid']) {
            pairs['text ' + text] = Math.min(ratio(text, 'paper'), ratio(text, 'raised')); }
          for (const part of ['canceled', 'before', 'paid', 'partial', 'final', 'open', 'requests',
            'quiet']) {
            pairs['part ' + part] = ratio(part, 'paper'); }
          return pairs; })()"""
    )
    assert len(ratios) == 13
    assert {name: one for name, one in ratios.items() if one < (4.5 if name.startswith("text") else 3)} == {}


def test_what_is_not_seen_is_said(page: Page) -> None:
    """Every chart has a caption in words and its numbers as a table; every table its caption."""
    assert page.evaluate("[...document.querySelectorAll('table')].every(one => one.caption.textContent)")
    figures = "[...document.querySelectorAll('figure')]"
    assert page.evaluate(f"{figures}.length") == 6
    assert page.evaluate(f"{figures}.every(one => one.querySelector('figcaption').textContent.length > 40)")
    assert page.evaluate(
        "[...document.querySelectorAll('input, select')].every(one => one.labels.length === 1)"
    )
    assert page.evaluate("document.documentElement.lang") == "en"


def test_without_scripts_the_page_says_what_is_missing(browser: Browser, page_path: Path) -> None:
    """And shows everything else."""
    page = browser.open(page_path, scripts=False)
    assert page.evaluate("getComputedStyle(document.getElementById('tool')).display") == "none"
    assert "needs JavaScript" in str(page.evaluate("document.querySelector('main').innerText"))


def test_it_prints_what_is_shown(page: Page, tmp_path: Path) -> None:
    """On paper, without controls, in black on white whatever the screen has."""
    page.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert page.evaluate("getComputedStyle(document.querySelector('.controls')).display") == "none"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.print(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")
