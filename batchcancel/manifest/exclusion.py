"""Ids that are never to be touched, from a file of their own."""

from __future__ import annotations

from pathlib import Path

from batchcancel.errors import ManifestError
from batchcancel.manifest.options import STDIN, Format, ManifestOptions, is_named_by_format
from batchcancel.manifest.passes import open_manifest


async def read_excluded_ids(path: str, *, encoding: str, spool_dir: Path) -> frozenset[str]:
    """Read the ids that a file names: a manifest of any format by its name, or else one id a line.

    Args:
        path: The file.
        encoding: A name that Python's codecs know.
        spool_dir: Where a pipe is copied to.

    Raises:
        ManifestError: The file can't be read, names nothing, or something that is no id: an exclusion that
            is damaged would protect nobody.
        ManifestChangedError: It changed while it was read.
    """
    if path == STDIN:
        raise ManifestError("The ids to exclude can't come from standard input: name a file.")
    options = ManifestOptions(
        encoding=encoding,
        format=None if is_named_by_format(path) else Format.TXT,
        needs_usual_column=True,
    )
    async with open_manifest([path], options=options, spool_dir=spool_dir) as manifest:
        await manifest.check()
        ids: set[str] = set()
        async for row in manifest.rows():
            if not row.valid:
                raise ManifestError(
                    f"{path}, row {row.row}: {row.invoice_id!r} is no invoice id, so it would protect "
                    "none. Mend the list first."
                )
            ids.add(row.invoice_id)
    if not ids:
        raise ManifestError(f"{path} names no id, so it would protect none. Leave out --exclude if it is so.")
    return frozenset(ids)
