"""What is left of a manifest: its own bytes, and nothing that has its answer."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchcancel.errors import ManifestError, ReportError
from batchcancel.ledger.record import encode_skip
from batchcancel.model import Skip, SkipReason
from batchcancel.report.make import Outputs, make_report
from batchcancel.tasks.open_rows import Left, OpenRows

if TYPE_CHECKING:
    from tests.conftest import WriteLedger

CSV = (
    'invoice_id;,note\r\n"1","a ""quoted"", cell"\r\n\r\n 2 ,"two\r\nlines"\r\n"3",ü\r\n'
    "4,=x\r\n2,again\r\nb@d,\r\n5,no end"
)
OPEN_CSV = 'invoice_id;,note\r\n\r\n 2 ,"two\r\nlines"\r\n4,=x\r\nb@d,\r\n5,no end'
ANSWERS: tuple[dict[str, Any], ...] = (
    {"invoice_id": "1"},
    {"invoice_id": "2", "reason": "unknown"},
    {"invoice_id": "3", "reason": "not_found"},
)


def left_of(ledger: Path, manifest: Path | None, target: Path, *, force: bool = False) -> Left:
    """Write what is left as the command does."""
    left = OpenRows(manifest, target, inputs=[ledger], force=force)
    make_report([ledger], Outputs(), watch=left.note)
    return left.write()


@pytest.mark.parametrize(
    ("encoding", "bom"),
    [
        ("utf-8", b""),
        ("utf-8", b"\xef\xbb\xbf"),
        ("utf-8-sig", b"\xef\xbb\xbf"),
        ("cp1252", b""),
        ("utf-16", b"\xff\xfe"),
        ("utf-16", b"\xfe\xff"),
        ("utf-16-le", b""),
    ],
    ids=["utf-8", "bom", "sig", "cp1252", "utf-16", "big-endian", "no bom"],
)
def test_rows_are_the_manifests_own_bytes(
    tmp_path: Path, write_ledger: WriteLedger, encoding: str, bom: bytes
) -> None:
    """Delimiter, quotes, line ends, blank lines, byte order mark and encoding."""
    exact = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}.get(bom, encoding.removesuffix("-sig"))
    manifest, target = tmp_path / "m.csv", tmp_path / "left.csv"
    manifest.write_bytes(bom + CSV.encode(exact))
    read = {"path": "m.csv", "sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(), "rows": 7}
    ledger = write_ledger(
        tmp_path / "l", *ANSWERS, manifest=(read,), options={"encoding": encoding, "column": "invoice_id;"}
    )
    left = left_of(ledger, manifest, target)
    assert target.read_bytes() == bom + OPEN_CSV.encode(exact)
    assert (left.rows, left.unanswered, left.excluded, left.is_known) == (4, 3, 0, True)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("m.tsv", "id\tx\n1\ta\n2\tb\n", "id\tx\n2\tb\n"),
        ("m.txt", "1\n\n2\n3\n4", "\n2\n4"),
        ("m.jsonl", '{"id":"1"}\n{ "id": 2 }\n{"id":"3"}\n', '{ "id": 2 }\n'),
        ("m.csv", "id\n", "id\n"),
        ("m.csv", "", ""),
        ("m.csv.gz", "id\n1\n2\n", "id\n2\n"),
    ],
    ids=["tsv", "txt", "jsonl", "header alone", "empty", "gzip"],
)
def test_every_shape_of_manifest(
    tmp_path: Path, write_ledger: WriteLedger, name: str, text: str, expected: str
) -> None:
    """The new file is of the same kind, packed if its name says so."""
    is_packed = name.endswith(".gz")
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if is_packed else data)
    target = tmp_path / f"left{name[1:]}"
    left_of(write_ledger(tmp_path / "l", *ANSWERS), tmp_path / name, target)
    written = target.read_bytes()
    assert (gzip.decompress(written) if is_packed else written).decode() == expected


def test_what_is_never_to_be_touched_is_not_left(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """Who runs the new manifest may forget --exclude."""
    ledger = write_ledger(tmp_path / "l", {"invoice_id": "2", "reason": "unknown"}, state=None)
    skip = Skip(row=1, invoice_id="1", why=SkipReason.EXCLUDED)
    ledger.write_bytes(ledger.read_bytes() + encode_skip("11111111-0000-4000-8000-000000000001", skip))
    (tmp_path / "m.txt").write_text("1\n2\n3\n", encoding="utf-8")
    left = left_of(ledger, tmp_path / "m.txt", tmp_path / "left.txt")
    assert (tmp_path / "left.txt").read_text(encoding="utf-8") == "2\n3\n"
    assert (left.rows, left.unanswered, left.excluded, left.is_known) == (2, 1, 1, False)


def test_each_merchant_has_its_own_rows(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """The column is the one that the run was told."""
    ledger = write_ledger(
        tmp_path / "l",
        {"invoice_id": "1", "merchant_id": "north"},
        {"invoice_id": "2"},
        merchant_id="own",
        options={"merchant_column": "shop"},
    )
    (tmp_path / "m.csv").write_text("id,shop\n1,north\n1,south\n2,own\n2,north\n", encoding="utf-8")
    left_of(ledger, tmp_path / "m.csv", tmp_path / "left.csv")
    assert (tmp_path / "left.csv").read_text(encoding="utf-8") == "id,shop\n1,south\n2,north\n"


def test_a_text_that_can_be_written_in_several_ways_is_refused(
    tmp_path: Path, write_ledger: WriteLedger
) -> None:
    """Nothing that is not provably the manifest's own is written."""
    (tmp_path / "m.txt").write_bytes(b"1\n\x1b(B2\n")  # a shift to ASCII that changes nothing
    ledger = write_ledger(tmp_path / "l", options={"encoding": "iso2022_jp"})
    with pytest.raises(ManifestError, match="Save it as UTF-8"):
        left_of(ledger, tmp_path / "m.txt", tmp_path / "left.txt")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["l", "m.txt"]


def test_what_can_not_be_read_or_written_is_refused(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """The manifest above all is never written over."""
    ledger = write_ledger(tmp_path / "l")
    manifest = tmp_path / "m.csv"
    manifest.write_text("id\n1\n", encoding="utf-8")
    with pytest.raises(ReportError, match="is what is read here"):
        OpenRows(manifest, manifest, inputs=[ledger], force=True)
    with pytest.raises(ManifestError, match="ends likewise"):
        left_of(ledger, manifest, tmp_path / "left.txt")
    with pytest.raises(ManifestError, match="can't be opened"):
        left_of(ledger, tmp_path / "no.csv", tmp_path / "left.csv")
    with pytest.raises(ManifestError, match="not a regular file"):
        left_of(ledger, tmp_path, tmp_path / "left.csv")
    (tmp_path / "m.csv.gz").write_bytes(gzip.compress(b"id\n1\n")[:-5])
    with pytest.raises(ManifestError, match="end-of-stream"):
        left_of(ledger, tmp_path / "m.csv.gz", tmp_path / "left.csv")
    assert manifest.read_text(encoding="utf-8") == "id\n1\n"


def read_by_run(manifest: Path) -> dict[str, Any]:
    """Tell of a manifest as a run's record does."""
    return {"path": str(manifest), "sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(), "rows": 2}


def test_the_manifest_that_the_runs_read_need_not_be_named(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """Its name stands in the ledger, and its digest proves that it is the one."""
    manifest, target = tmp_path / "m.csv", tmp_path / "left.csv"
    manifest.write_text("id\n1\n2\n", encoding="utf-8")
    ledger = write_ledger(tmp_path / "l", *ANSWERS[:1], manifest=(read_by_run(manifest),))
    left = left_of(ledger, None, target)
    assert (left.manifest, left.rows, left.is_known) == (manifest, 1, True)
    assert target.read_text(encoding="utf-8") == "id\n2\n"


def test_no_other_manifest_is_taken_for_the_one_that_was_read(
    tmp_path: Path, write_ledger: WriteLedger
) -> None:
    """One that was changed, one of several, standard input, and the target itself are not guessed at."""
    manifest, other, target = tmp_path / "m.csv", tmp_path / "o.csv", tmp_path / "left.csv"
    manifest.write_text("id\n1\n2\n", encoding="utf-8")
    other.write_text("id\n3\n", encoding="utf-8")
    read = read_by_run(manifest)
    ledger = write_ledger(tmp_path / "l", manifest=(read,))
    with pytest.raises(ReportError, match=r"is what is read here"):
        left_of(ledger, None, manifest, force=True)
    several = write_ledger(tmp_path / "several", manifest=(read, read_by_run(other)))
    with pytest.raises(ManifestError, match=r"read 2 manifests. Name the manifest with --manifest"):
        left_of(several, None, target)
    spooled = write_ledger(tmp_path / "spooled", manifest=(read | {"path": "-"},))
    with pytest.raises(ManifestError, match=r"read standard input. Name the manifest"):
        left_of(spooled, None, target)
    manifest.write_text("id\n1\n2\n4\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"as it is now.*Name the manifest"):
        left_of(ledger, None, target)
    manifest.unlink()
    with pytest.raises(ManifestError, match=r"can't be opened: No such file or directory. Name the manifest"):
        left_of(ledger, None, target)
    assert not target.exists()
