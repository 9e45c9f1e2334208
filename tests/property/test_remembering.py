"""Whatever was asked before and stands in the manifests, it is remembered as plain dictionaries would."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Struct

from batchcancel import buckets
from batchcancel.job.selection import standing_of
from batchcancel.ledger.reader import recover
from batchcancel.ledger.record import RunRecord, encode_result, encode_run
from batchcancel.manifest import Check, ManifestOptions, open_manifest
from batchcancel.model import ManifestRow, Reason, Result, Standing
from batchcancel.settings import RetryErrors

OWN: Final = "acme"
RUN: Final = RunRecord(
    run_id="r",
    started_at="t",
    version="0",
    env="test",
    base_url="b",
    merchant_id=OWN,
    operator="o",
    host="h",
    pid=1,
    ref=None,
    manifest=(),
    options={},
)
OPTIONS: Final = ManifestOptions(merchant_column="who", own_merchant_id=OWN)


class Invoice(Struct, frozen=True):
    """An invoice, or what is none: all that tells it from others."""

    text: str
    valid: bool
    merchant_id: str | None

    def as_json(self) -> str:
        """Write it as a line of a manifest; the JSON value true is no id and is recorded as one."""
        id_ = True if self.text == "true" and not self.valid else self.text
        return json.dumps({"id": id_, "who": self.merchant_id or OWN}) + "\n"


class Past(Struct, frozen=True):
    """One result of an earlier run."""

    invoice: Invoice
    reason: Reason

    def as_line(self) -> bytes:
        """Write it as a line of the ledger."""
        return encode_result(
            "r",
            Result(
                row=1,
                merchant_id=self.invoice.merchant_id or UNSET,
                invoice_id=self.invoice.text,
                outcome=self.reason.outcome,
                reason=self.reason,
                resolved_by=None,
                at="t",
            ),
        )


VALID_IDS: Final = ["1", "2", "3", "true", "A.b", "z" * 64]
merchants = st.sampled_from([None, None, "shop_a", "shop_b"])
valid_invoices = st.builds(Invoice, st.sampled_from(VALID_IDS), st.just(True), merchants)
invalid_invoices = st.builds(Invoice, st.sampled_from(["true", "b@d", "!1", "=1"]), st.just(False), merchants)
invoices = valid_invoices | invalid_invoices
pasts = st.builds(
    Past, valid_invoices, st.sampled_from([reason for reason in Reason if reason != "invalid_id"])
) | st.builds(Past, invalid_invoices, st.just(Reason.INVALID_ID))


async def remember(
    folder: Path,
    past: Sequence[Past],
    manifests: Sequence[Sequence[Invoice]],
    *,
    retry_errors: RetryErrors,
    excluded: frozenset[str],
) -> tuple[Check, list[ManifestRow]]:
    """Read a ledger and manifests as a job does."""
    ledger = folder / "x.ledger.jsonl"
    ledger.write_bytes(encode_run(RUN) + b"".join(one.as_line() for one in past))
    paths = [folder / f"{number}.jsonl" for number in range(len(manifests))]
    for path, rows in zip(paths, manifests, strict=True):
        path.write_text("".join(row.as_json() for row in rows), encoding="utf-8")
    fd = os.open(ledger, os.O_RDONLY)
    try:
        reasons = recover(fd, ledger).reasons
    finally:
        os.close(fd)
    with closing(reasons):
        async with open_manifest(
            [str(path) for path in paths], options=OPTIONS, spool_dir=folder
        ) as manifest:
            check = await manifest.check(
                standing_of=partial(standing_of, retry_errors), reasons=reasons, excluded=excluded
            )
            return check, [row async for row in manifest.rows()]


@given(
    past=st.lists(pasts, max_size=30),
    manifests=st.lists(st.lists(invoices, max_size=20), min_size=1, max_size=3),
    excluded=st.frozensets(st.sampled_from(VALID_IDS), max_size=2),
    retry_errors=st.sampled_from(RetryErrors),
    held=st.integers(1, 8) | st.just(buckets.MAX_HELD),
)
@settings(max_examples=300)
def test_the_answer_is_that_of_plain_dictionaries(
    past: list[Past],
    manifests: list[list[Invoice]],
    excluded: frozenset[str],
    retry_errors: RetryErrors,
    held: int,
) -> None:
    """Duplicates, standings and every count, however little may be held in memory."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "MAX_HELD", held)
        check, rows = asyncio.run(
            remember(Path(folder), past, manifests, retry_errors=retry_errors, excluded=excluded)
        )
        names = [str(Path(folder, f"{number}.jsonl")) for number in range(len(manifests))]
    latest = {one.invoice: one.reason for one in past}
    seen: dict[Invoice, tuple[str | None, int]] = {}
    standings: Counter[Standing] = Counter()
    open_of: Counter[str | None] = Counter()
    read = iter(rows)
    for name, invoices in zip(names, manifests, strict=True):
        file = name if len(names) > 1 else None
        for number, invoice in enumerate(invoices, start=1):
            row = next(read)
            assert (row.row, row.file) == (number, file)
            assert (row.invoice_id, row.valid, row.merchant_id) == (
                invoice.text,
                invoice.valid,
                invoice.merchant_id,
            )
            if invoice in seen:
                assert (row.duplicate_of_file, row.duplicate_of) == seen[invoice]
                continue
            seen[invoice] = file, number
            is_excluded = invoice.valid and invoice.text in excluded
            standing = standing_of(retry_errors, latest.get(invoice), is_excluded)
            assert (row.duplicate_of, row.standing) == (None, standing)
            standings[standing] += 1
            if invoice.valid and standing in {Standing.TO_ASK, Standing.TO_LOOK_UP}:
                open_of[invoice.merchant_id] += 1
    assert next(read, None) is None
    distinct = sum(invoice.valid for invoice in seen)
    assert (check.rows, check.distinct, check.invalid, check.duplicates) == (
        len(rows),
        distinct,
        len(seen) - distinct,
        len(rows) - len(seen),
    )
    assert (check.settled, check.excluded, check.held_back) == (
        standings[Standing.SETTLED],
        standings[Standing.EXCLUDED],
        standings[Standing.HELD_BACK],
    )
    assert (check.open, check.open_of) == (open_of.total(), dict(open_of))
    assert check.merchants == {invoice.merchant_id for invoice in seen}
    assert [file.rows for file in check.files] == [len(rows) for rows in manifests]
