"""From a ledger and manifests to how one covers the other. Reads only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from batchcancel.ledger.reader import opened, read_records
from batchcancel.manifest import Format, ManifestFile, ManifestOptions
from batchcancel.tasks.as_read import options_of
from batchcancel.tasks.verify.answers import Answers
from batchcancel.tasks.verify.audit import audit_opened, result_rows
from batchcancel.tasks.verify.comparing import Comparing
from batchcancel.tasks.verify.coverage import Coverage
from batchcancel.tasks.verify.findings import Audit
from batchcancel.tasks.verify.manifests import Manifests, Row, open_manifests
from batchcancel.tasks.verify.runs_over import RunsOver


class Reading(Struct, frozen=True, kw_only=True):
    """How manifests are read where it is said; None for as their run read them."""

    column: str | None = None
    format: Format | None = None
    encoding: str | None = None
    merchant_column: str | None = None

    def over(self, options: ManifestOptions) -> ManifestOptions:
        """Return options with what is said in the place of what they say."""
        said = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}
        return replace(options, **said)


def audit_with_manifests(ledger: Path, manifests: Sequence[Path], reading: Reading) -> tuple[Audit, Coverage]:
    """Audit a ledger, and hold manifests against what it says. Blocks.

    Args:
        ledger: The ledger's file.
        manifests: One or more, in the order in which their run read them.
        reading: How they are read, where not as their run did.

    Raises:
        LedgerMismatchError: There is no such ledger, it is none, or a newer version wrote it.
        LedgerFaultError: It can't be read to its end.
        ManifestError: A manifest can't be read, or changes meanwhile.
        UsageError: There is no room to compare so many rows.
    """
    with ExitStack() as stack:
        read = stack.enter_context(open_manifests(manifests))
        runs = stack.enter_context(closing(RunsOver(read.digests)))
        answers = stack.enter_context(closing(Answers()))
        fd = stack.enter_context(opened(ledger))
        audit = audit_opened(fd, ledger, answers, is_marked=runs.note)
        comparing = stack.enter_context(closing(Comparing(runs, answers)))
        options = reading.over(options_of(runs.model))
        counts: Counter[int] = Counter()
        for row in read.rows(options):
            counts[row.file] += 1
            comparing.add(row)
        comparing.compare()
        coverage = comparing.sum_up(
            tuple(
                ManifestFile(path=str(path), sha256=digest, rows=counts[index])
                for index, (path, digest) in enumerate(zip(read.paths, read.digests, strict=True))
            ),
            _rows_of(read, options, [one for one, _ in comparing.open.items()]),
            result_rows(read_records(fd, ledger), {one for one, _ in comparing.strangers.items()}),
        )
        return audit, coverage


def _rows_of(manifests: Manifests, options: ManifestOptions, numbers: Collection[int]) -> dict[int, Row]:
    """Read some rows once more, by their numbers from 0 through all manifests."""
    wanted = set(numbers)
    rows = enumerate(manifests.rows(options)) if wanted else ()
    return {number: row for number, row in rows if number in wanted}
