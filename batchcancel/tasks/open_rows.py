"""``report --open-rows``: what is left of a manifest, byte for byte as it stands there.

Left is an invoice without an answer, and one whose error is open. A row is left out if an earlier one
stands for it, and if any run of the ledgers was told never to touch its invoice: who runs the new
manifest may forget ``--exclude``.
"""

from __future__ import annotations

import gzip
import hashlib
import stat
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct

from batchcancel.errors import ManifestError
from batchcancel.ledger.reader import (
    ResultRecord,
    RunRecord,
    SkipRecord,
    digest_of,
    digest_of_excluded,
)
from batchcancel.manifest import Format, ManifestOptions
from batchcancel.manifest.options import is_named_by_format, resolve_formats
from batchcancel.report.files import check_target, writing
from batchcancel.report.reading import Entry
from batchcancel.tasks.as_read import options_of
from batchcancel.tasks.cutting import Cutter

_NAME_IT: Final = "Name the manifest with --manifest."


class Left(Struct, frozen=True, kw_only=True):
    """What was written."""

    path: Path
    manifest: Path
    """What of."""
    rows: int
    unanswered: int
    """Of them those that no run has given a row."""
    excluded: int
    """Rows left out because a run was told never to touch them."""
    is_known: bool
    """Whether a run of the ledgers read the manifest as it is now."""


class OpenRows:
    """Gathers what is settled from the entries of ledgers, then writes the rest of a manifest.

    Memory is a digest of 16 bytes for each settled invoice and for each row of the manifest.
    """

    def __init__(self, manifest: Path | None, target: Path, *, inputs: Sequence[Path], force: bool) -> None:
        """Prepare; nothing is written.

        Args:
            manifest: The manifest; None for the one that the ledgers' runs have read.
            target: Where what is left of it goes.
            inputs: What else must not be written over.
            force: Whether a file that is there may be replaced.

        Raises:
            ReportError: There is something at the target.
        """
        check_target(target, force=force, inputs=[*([] if manifest is None else [manifest]), *inputs])
        self._manifest = manifest
        self._target = target
        self._force = force
        self._settled: set[bytes] = set()
        self._answered: set[bytes] = set()
        self._excluded: set[bytes] = set()
        self._runs: list[RunRecord] = []

    def note(self, entry: Entry) -> None:
        """Take the next entry of the ledgers."""
        match entry.record:
            case RunRecord() as run:
                self._runs.append(run)
            case ResultRecord() as result if entry.is_answer:
                (self._settled if result.reason.is_final else self._answered).add(digest_of(result))
            case SkipRecord() as skip if (digest := digest_of_excluded(skip)) is not None:
                self._excluded.add(digest)

    def write(self) -> Left:
        """Write what is left. Blocks; the file appears whole or not at all.

        Raises:
            ManifestError: The manifest can't be read, or not be cut into rows without changing them; or it
                is not named, and which one it is can't be told for sure.
            ReportError: The file can't be written.
        """
        manifest = self._manifest or self._manifest_of_runs()
        try:
            if not stat.S_ISREG(manifest.stat().st_mode):  # a FIFO would be waited for
                raise ManifestError(f"{manifest} is not a regular file. Name a manifest.")
            file = manifest.open("rb")
        except OSError as exc:
            raise ManifestError(f"{manifest} can't be opened: {exc.strerror}. {_NAME_IT}") from exc
        with file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if self._manifest is None:
                self._ensure_read(manifest, sha256)
                check_target(self._target, force=self._force, inputs=[manifest])
            with writing([self._target]) as files, files[self._target].temporary.open("wb") as plain:
                return self._write(file, manifest, self._run_of(sha256), plain)

    def _manifest_of_runs(self) -> Path:
        """Return the one file that all runs have read, by the name that they had for it."""
        paths = {one.path for run in self._runs for one in run.manifest}
        if len(paths) != 1 or "-" in paths:
            read = "standard input" if paths == {"-"} else f"{len(paths)} manifests"
            raise ManifestError(f"The runs of these ledgers read {read}. {_NAME_IT}")
        return Path(paths.pop())

    def _ensure_read(self, manifest: Path, sha256: str) -> None:
        """Refuse a file that has the name of the runs' manifest alone."""
        if not any(sha256 == one.sha256 for run in self._runs for one in run.manifest):
            raise ManifestError(
                f"No run of these ledgers has read {manifest} as it is now: it was changed, or is another "
                f"file. {_NAME_IT}"
            )

    def _write(self, file: BufferedReader, manifest: Path, run: RunRecord | None, plain: BinaryIO) -> Left:
        options = options_of(run)
        format_ = self._format(manifest, options)
        cutter = Cutter(file, manifest, options, format_)
        seen: set[bytes] = set()
        rows = unanswered = excluded = 0
        is_packed = self._target.name.lower().endswith(".gz")
        with gzip.GzipFile(fileobj=plain, mode="wb", filename="", mtime=0) if is_packed else plain as out:
            for key, piece in cutter.pieces():
                if key is None:
                    out.write(piece)
                    continue
                if key in seen:
                    continue
                seen.add(key)
                if key in self._excluded:
                    excluded += 1
                elif key not in self._settled:
                    rows += 1
                    unanswered += key not in self._answered
                    out.write(piece)
        return Left(
            path=self._target,
            manifest=manifest,
            rows=rows,
            unanswered=unanswered,
            excluded=excluded,
            is_known=run is not None and cutter.sha256 in {one.sha256 for one in run.manifest},
        )

    def _run_of(self, sha256: str) -> RunRecord | None:
        """Return the run that read this very manifest last, else the latest one."""
        for run in reversed(self._runs):
            if sha256 in {one.sha256 for one in run.manifest}:
                return run
        return self._runs[-1] if self._runs else None

    def _format(self, manifest: Path, options: ManifestOptions) -> Format:
        format_ = resolve_formats((str(manifest),), options)[0]
        target = str(self._target)
        if options.format is None and is_named_by_format(target):
            wanted = resolve_formats((target,), ManifestOptions())[0]
            if wanted is not format_:
                raise ManifestError(
                    f"{target} would be read as {wanted}, and {manifest} is {format_}: give it a name "
                    "that ends likewise."
                )
        return format_
