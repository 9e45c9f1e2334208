"""The id's column is found strictly or not at all."""

from __future__ import annotations

import pytest

from batchcancel.errors import ManifestError
from batchcancel.manifest.columns import find_column, find_id_column, refuse_suspect_header


@pytest.mark.parametrize(
    ("names", "wanted", "index"),
    [
        pytest.param(["a", "invoice_id"], None, 1, id="invoice_id"),
        pytest.param(["a", " InvoiceId "], None, 1, id="any-case-trimmed"),
        pytest.param(["INVOICE_NUMBER", "b"], None, 0, id="invoice_number"),
        pytest.param(["b", "invoiceNumber"], None, 1, id="invoiceNumber"),
        pytest.param(["b", "ID"], None, 1, id="id"),
        pytest.param(["anything"], None, 0, id="the-only-column"),
        pytest.param(["id", "Ref"], "Ref", 1, id="named-exactly"),
        pytest.param(["id", " Ref"], "rEF ", 1, id="named-in-another-case"),
        pytest.param(["ref", "REF"], "REF", 1, id="exact-name-wins"),
    ],
)
def test_the_column_is_found(names: list[str], wanted: str | None, index: int) -> None:
    """One column fits, by name or because it is alone."""
    assert find_id_column(names, wanted, where="f, line 1") == index


@pytest.mark.parametrize(
    ("names", "wanted", "said"),
    [
        pytest.param(["a", "b"], None, "there are: a, b", id="none-fits"),
        pytest.param(
            ["id", "invoice_id"], None, "several columns may hold the id: id, invoice_id", id="two-fit"
        ),
        pytest.param(["id", "id"], None, "several columns may hold the id", id="the-same-twice"),
        pytest.param(["ref", "ref"], "ref", "2 columns are called 'ref'", id="named-twice"),
        pytest.param(["Ref", "REF"], "ref", "2 columns are called 'ref'", id="named-twice-in-other-cases"),
        pytest.param(["Invoice", "b"], "invioce", "Did you mean 'Invoice'?", id="mistyped"),
        pytest.param(["a", ""], "zzz", "'zzz'. There are: a, (no name)", id="nothing-near"),
        pytest.param([], None, "there are: none", id="no-columns"),
        pytest.param([f"c{n}" for n in range(22)], None, "c19 and 2 more", id="many-columns"),
    ],
)
def test_doubt_about_the_column_is_an_error(names: list[str], wanted: str | None, said: str) -> None:
    """The message names the place and the columns."""
    with pytest.raises(ManifestError) as caught:
        find_id_column(names, wanted, where="f.csv, line 1")
    assert str(caught.value).startswith("f.csv, line 1: ")
    assert said in str(caught.value)


def test_a_missing_column_to_keep_is_an_error() -> None:
    """A column asked for is never silently left out."""
    with pytest.raises(ManifestError, match="no column is called 'total'"):
        find_column(["id"], "total", where="f, line 1")


@pytest.mark.parametrize(
    ("name", "delimiter", "said"),
    [
        pytest.param("INV-2675", ",", "looks like an id", id="an-id"),
        pytest.param("id;name", ",", "semicolons", id="semicolons"),
        pytest.param("id\tname", ",", "tabs", id="tabs"),
        pytest.param("id,name", "\t", "commas", id="commas-in-tsv"),
    ],
)
def test_a_suspect_lone_header_is_refused(name: str, delimiter: str, said: str) -> None:
    """A headerless file would lose its first invoice otherwise."""
    with pytest.raises(ManifestError, match=said):
        refuse_suspect_header([name], delimiter=delimiter, where="f, line 1")


@pytest.mark.parametrize("names", [["id"], ["Invoice, name"], ["a1", "b2"]], ids=["usual", "quoted", "two"])
def test_an_ordinary_header_passes(names: list[str]) -> None:
    """Only a lone, unusual cell is suspect."""
    refuse_suspect_header(names, delimiter=",", where="f, line 1")
    assert find_id_column(names, names[0], where="f, line 1") == 0
