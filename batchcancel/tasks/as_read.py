"""How a run read its manifests, so that whoever reads one again afterwards sees the same rows."""

from __future__ import annotations

from batchcancel.ledger.reader import RunRecord
from batchcancel.manifest import Format, ManifestOptions


def options_of(run: RunRecord | None) -> ManifestOptions:
    """Return how a run read its manifests; the defaults where there is no run."""
    given = {} if run is None else run.options
    column, format_, encoding = given.get("column"), given.get("format"), given.get("encoding")
    merchant_column = given.get("merchant_column")
    return ManifestOptions(
        column=column if isinstance(column, str) else None,
        format=Format(format_) if isinstance(format_, str) and format_ in set(Format) else None,
        encoding=encoding if isinstance(encoding, str) else "utf-8",
        merchant_column=merchant_column if isinstance(merchant_column, str) else None,
        own_merchant_id=None if run is None else run.merchant_id,
    )
