"""A manifest held against ledgers: as real runs leave them, and with whatever is to be wrong."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchcancel import Job, buckets, load_settings
from batchcancel.errors import LedgerMismatchError, ManifestError
from batchcancel.ledger.reader import EndRecord, RunRecord
from batchcancel.ledger.record import encode_end, encode_result, encode_run, encode_skip
from batchcancel.manifest import Format, ManifestOptions
from batchcancel.model import Reason, Result, RunState, Skip, SkipReason
from batchcancel.tasks.verify import Coverage, DisagreementKind, Reading, audit_with_manifests
from batchcancel.tasks.verify.findings import MAX_LISTED

if TYPE_CHECKING:
    from tests.conftest import WriteLedger

RunOver = Callable[..., Awaitable[Path]]
AS_THE_RUN = Reading()


@pytest.fixture
def run_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunOver:
    """Run over manifests in the simulator; return the ledger."""
    monkeypatch.chdir(tmp_path)

    async def run(*manifests: Path, **flags: Any) -> Path:
        ledger = tmp_path / "l.jsonl"
        environ = {"HOME": str(tmp_path)}
        settings = load_settings(manifests, environ=environ, env="sandbox", ledger=str(ledger), **flags)
        async with Job(settings) as job:
            await job.run()
        return ledger

    return run


def covered(ledger: Path, *manifests: Path, sound: bool = True, **reading: Any) -> Coverage:
    """Hold manifests against a ledger that has to be sound by itself."""
    audit, coverage = audit_with_manifests(ledger, manifests, Reading(**reading))
    assert audit.is_sound is sound
    return coverage


def kinds(coverage: Coverage) -> list[DisagreementKind]:
    """Name every disagreement that is listed; all are here."""
    assert coverage.disagreement_count == len(coverage.disagreements)
    return [one.kind for one in coverage.disagreements]


def write(path: Path, *ids: str) -> Path:
    """Write a plain list."""
    path.write_text("".join(f"{one}\n" for one in ids), encoding="utf-8")
    return path


# --- as runs leave them ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "flags"),
    [
        ("m.txt", b"1\nPAID-1\n1\nMISSING-1\nb@d\nb@d\nFORBIDDEN-1\n", {}),
        (
            "m.csv",
            b"\xef\xbb\xbfx;,n\r\n,1\r\n, PAID-1\r\n\r\n,1\r\n,MISSING-1\r\n,b@d\r\n,b@d\r\n,FORBIDDEN-1\r\n",
            {"column": "n"},
        ),
        (
            "m.data",
            gzip.compress(
                b'{"n":1}\n{"n":"PAID-1"}\n{"n":1}\n{"n":"MISSING-1"}\n{"n":true}\n{"n":true}\n{"n":"FORBIDDEN-1"}\n'
            ),
            {"column": "n", "format": "jsonl"},
        ),
        (
            "m.csv",
            "id\tö\n1\t\nPAID-1\t\n1\t\nMISSING-1\t\nb@d\t\nb@d\t\nFORBIDDEN-1\t\n".encode("utf-16"),
            {"format": "tsv", "encoding": "utf-16", "column": "id"},
        ),
    ],
    ids=["txt", "csv", "jsonl.gz", "utf-16"],
)
async def test_every_row_is_accounted_for_as_its_run_read_it(
    tmp_path: Path, run_over: RunOver, name: str, data: bytes, flags: dict[str, Any]
) -> None:
    """Column, format and encoding come from the run record."""
    (tmp_path / name).write_bytes(data)
    ledger = await run_over(tmp_path / name, **flags)
    coverage = covered(ledger, tmp_path / name)
    assert kinds(coverage) == []
    assert (coverage.rows, coverage.runs, coverage.complete_runs) == (7, 1, 1)
    assert coverage.answered == {Reason.CANCELED: 1, Reason.PAID: 1, Reason.NOT_FOUND: 1}
    assert (coverage.invalid, coverage.duplicates, coverage.excluded) == (1, 2, 0)
    assert (coverage.open_errors, coverage.unanswered) == ({Reason.REFUSED: 1}, 0)
    assert [(one.row, one.invoice_id, one.reason) for one in coverage.open_rows] == [
        (7, "FORBIDDEN-1", Reason.REFUSED)
    ]


async def test_excluded_rows_are_told_from_open_ones(tmp_path: Path, run_over: RunOver) -> None:
    """By the rows that the run skipped; a later run without the list answers them."""
    manifest, never = write(tmp_path / "m.txt", "1", "2", "2"), write(tmp_path / "never.txt", "2")
    ledger = await run_over(manifest, exclude=str(never))
    coverage = covered(ledger, manifest)
    assert (kinds(coverage), coverage.excluded, coverage.duplicates, coverage.open) == ([], 1, 1, 0)
    await run_over(manifest)
    coverage = covered(ledger, manifest)
    assert (kinds(coverage), coverage.excluded, coverage.answered) == ([], 0, {Reason.CANCELED: 2})


async def test_rows_that_a_stop_left_are_open_and_no_disagreement(tmp_path: Path, run_over: RunOver) -> None:
    """They are named; the next run answers them."""
    manifest = write(tmp_path / "m.txt", "1", "2", "3")
    ledger = await run_over(manifest, limit=1)
    coverage = covered(ledger, manifest)
    assert (kinds(coverage), coverage.unanswered, coverage.complete_runs) == ([], 2, 0)
    assert [(one.row, one.invoice_id, one.reason) for one in coverage.open_rows] == [
        (2, "2", None),
        (3, "3", None),
    ]
    await run_over(manifest)
    assert covered(ledger, manifest).open == 0


async def test_answers_of_other_nights_count(tmp_path: Path, run_over: RunOver) -> None:
    """Only the runs over the manifest are held to it: the ledger may know other invoices."""
    first, second = write(tmp_path / "1.txt", "1", "2"), write(tmp_path / "2.txt", "2", "3")
    await run_over(first)
    ledger = await run_over(second)
    for manifest in (first, second):
        coverage = covered(ledger, manifest)
        assert (kinds(coverage), coverage.answered, coverage.runs) == ([], {Reason.CANCELED: 2}, 1)


async def test_several_manifests_are_one(tmp_path: Path, run_over: RunOver) -> None:
    """In the order of their run: a row of the second may repeat one of the first."""
    first, second = write(tmp_path / "1.txt", "1", "2"), write(tmp_path / "2.txt", "2", "b@d", "3")
    ledger = await run_over(first, second)
    coverage = covered(ledger, first, second)
    assert (kinds(coverage), coverage.duplicates, [one.rows for one in coverage.files]) == ([], 1, [2, 3])
    swapped = covered(ledger, second, first)
    assert kinds(swapped) == [DisagreementKind.CHANGED]
    assert "in the order in which their run read them" in swapped.disagreements[0].text


async def test_each_merchant_s_invoices_are_its_own(tmp_path: Path, run_over: RunOver) -> None:
    """The column is the run's."""
    manifest = tmp_path / "m.csv"
    manifest.write_text("id,shop\n1,north\n1,south\n1,north\nFORBIDDEN-1,south\n", encoding="utf-8")
    ledger = await run_over(manifest, merchant_column="shop")
    coverage = covered(ledger, manifest)
    assert (kinds(coverage), coverage.answered, coverage.duplicates) == ([], {Reason.CANCELED: 2}, 1)
    assert [(one.invoice_id, one.merchant_id) for one in coverage.open_rows] == [("FORBIDDEN-1", "south")]


# --- what disagrees -------------------------------------------------------------------------------


async def test_a_manifest_that_changed_is_a_disagreement_and_is_compared_all_the_same(
    tmp_path: Path, run_over: RunOver
) -> None:
    """A row that was added has no answer; who asks for a proof gets none."""
    manifest = write(tmp_path / "m.txt", "1", "2")
    ledger = await run_over(manifest)
    write(manifest, "1", "2", "9")
    coverage = covered(ledger, manifest)
    assert kinds(coverage) == [DisagreementKind.CHANGED]
    assert (coverage.runs, coverage.answered, coverage.unanswered) == (0, {Reason.CANCELED: 2}, 1)


def doctored(path: Path, manifest: Path, *lines: Result | Skip, counts: dict[str, int], **run: Any) -> Path:
    """Write a ledger whose run claims to have read a manifest."""
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    record = RunRecord(
        **{
            "run_id": "r",
            "started_at": "t",
            "version": "0",
            "env": "test",
            "base_url": "b",
            "merchant_id": "m",
            "operator": "o",
            "host": "h",
            "pid": 1,
            "ref": None,
            "manifest": ({"path": "m", "sha256": digest, "rows": counts.get("rows", 0)},),
            "options": {},
            **run,
        }
    )
    data = encode_run(record)
    for line in lines:
        data += encode_skip("r", line) if isinstance(line, Skip) else encode_result("r", line)
    end = EndRecord(
        run_id="r",
        ended_at="t",
        state=RunState.COMPLETE,
        counts=counts,
        sha256=hashlib.sha256(data).hexdigest(),
    )
    path.write_bytes(data + encode_end(end))
    return path


def canceled(invoice_id: str) -> Result:
    """Build a row."""
    reason = Reason.CANCELED
    return Result(
        row=1, invoice_id=invoice_id, outcome=reason.outcome, reason=reason, resolved_by=None, at="t"
    )


@pytest.mark.parametrize(
    ("lines", "counts", "expected"),
    [
        (
            [canceled("1"), Skip(row=2, invoice_id="1", why=SkipReason.DUPLICATE, of_row=1)],
            {"rows": 3, "canceled": 1, "duplicates": 1, "settled_earlier": 1},
            [(DisagreementKind.NO_ROW, None, 3, "Invoice 2 has no row")],
        ),
        (
            [
                canceled("1"),
                canceled("2"),
                canceled("9"),
                Skip(row=2, invoice_id="1", why=SkipReason.DUPLICATE),
            ],
            {"rows": 4, "canceled": 3, "duplicates": 1},
            [
                (DisagreementKind.COUNTS, 1, None, "has 4 rows of"),
                (DisagreementKind.COUNTS, 6, None, "counts 4 rows; the manifest has 3"),
                (DisagreementKind.STRANGER, 4, None, "Invoice 9 is not in the manifest"),
            ],
        ),
        (
            [canceled("1"), Skip(row=3, invoice_id="2", why=SkipReason.DUPLICATE), canceled("2")],
            {"rows": 3, "canceled": 2, "duplicates": 1},
            [(DisagreementKind.SKIP, 3, None, "the manifest has none like that")],
        ),
        (
            [canceled("1"), canceled("2"), Skip(row=3, invoice_id="7", why=SkipReason.EXCLUDED)],
            {"rows": 3, "canceled": 2, "excluded": 1},
            [
                (DisagreementKind.COUNTS, 5, None, "counts 0 duplicates; the manifest has 1"),
                (DisagreementKind.SKIP, 4, None, "the manifest has none like that"),
            ],
        ),
    ],
    ids=["no row", "a stranger and wrong counts", "no duplicate", "excluded that is not there"],
)
@pytest.mark.parametrize("held", [1, 1000])
def test_whatever_contradicts_the_manifest_is_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[Result | Skip],
    counts: dict[str, int],
    expected: list[tuple[DisagreementKind, int | None, int | None, str]],
    held: int,
) -> None:
    """Although the ledger itself is sound; however little memory there is."""
    monkeypatch.setattr(buckets, "MAX_HELD", held)
    manifest = write(tmp_path / "m.txt", "1", "1", "2")
    coverage = covered(doctored(tmp_path / "l", manifest, *lines, counts=counts), manifest)
    found = [(one.kind, one.line, one.row) for one in coverage.disagreements]
    assert found == [(kind, line, row) for kind, line, row, _ in expected]
    assert coverage.disagreement_count == len(expected)
    for one, (*_, text) in zip(coverage.disagreements, expected, strict=True):
        assert text in one.text


def test_the_first_of_many_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    """Strangers, rows without an answer, skips: a thousand of each."""
    more = MAX_LISTED + 5
    manifest = write(tmp_path / "m.txt", *(f"m{number}" for number in range(more)))
    skips = [Skip(row=1, invoice_id=f"s{number}", why=SkipReason.DUPLICATE) for number in range(more)]
    rows = [canceled(f"c{number}") for number in range(more)]
    counts = {"rows": more, "canceled": more, "duplicates": more, "open": 0}
    ledger = doctored(tmp_path / "l", manifest, *skips, *rows, counts=counts)
    coverage = covered(ledger, manifest, sound=False)
    assert coverage.disagreement_count == 3 * more + 1
    assert len(coverage.disagreements) == 3 * MAX_LISTED + 1
    assert [one.row for one in coverage.open_rows] == list(range(1, MAX_LISTED + 1))
    strangers = [one.line for one in coverage.disagreements if one.kind is DisagreementKind.STRANGER]
    assert strangers == list(range(more + 2, more + 2 + MAX_LISTED))


# --- how it is read -------------------------------------------------------------------------------


def test_how_it_is_read_can_be_said(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """Over what the run record says."""
    manifest = tmp_path / "m.dat"
    manifest.write_bytes("nr\tshop\tä\n1\tnorth\tx\n".encode("cp1252"))
    ledger = write_ledger(
        tmp_path / "l", {"invoice_id": "1", "merchant_id": "north"}, options={"column": "ä"}, state=None
    )
    reading: dict[str, Any] = {
        "format": Format.TSV,
        "column": "nr",
        "encoding": "cp1252",
        "merchant_column": "shop",
    }
    assert covered(ledger, manifest, **reading).answered == {Reason.CANCELED: 1}


@pytest.mark.parametrize("kind", ["missing", "folder", "torn", "no column"])
def test_a_manifest_that_can_not_be_read_is_a_sentence(
    tmp_path: Path, write_ledger: WriteLedger, kind: str
) -> None:
    """Nothing is said of the ledger then."""
    ledger, manifest = write_ledger(tmp_path / "l", {"invoice_id": "1"}), tmp_path / "m.csv"
    if kind == "folder":
        manifest.mkdir()
    elif kind == "torn":
        manifest.write_bytes(gzip.compress(b"id\n1\n")[:-9])
    elif kind == "no column":
        manifest.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ManifestError):
        audit_with_manifests(ledger, [manifest], AS_THE_RUN)


def test_a_manifest_that_changes_while_it_is_read_is_a_sentence(
    tmp_path: Path, write_ledger: WriteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its digest and its rows."""
    manifest = write(tmp_path / "m.txt", "1", "2")
    ledger = write_ledger(tmp_path / "l", {"invoice_id": "1"})

    def change(_self: Reading, options: ManifestOptions) -> ManifestOptions:
        write(manifest, "1", "3")
        return options

    monkeypatch.setattr(Reading, "over", change)
    with pytest.raises(ManifestError, match="changed while it was read"):
        audit_with_manifests(ledger, [manifest], AS_THE_RUN)


def test_an_empty_ledger_covers_nothing(tmp_path: Path) -> None:
    """All rows are open, and no run read the manifest."""
    (tmp_path / "l").write_bytes(b"")
    manifest = write(tmp_path / "m.txt", "1", "b@d")
    coverage = covered(tmp_path / "l", manifest)
    assert (kinds(coverage), coverage.unanswered) == ([DisagreementKind.CHANGED], 2)
    (tmp_path / "l").write_bytes(b"words\n")
    with pytest.raises(LedgerMismatchError):
        audit_with_manifests(tmp_path / "l", [manifest], AS_THE_RUN)
