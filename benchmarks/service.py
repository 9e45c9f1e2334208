"""A service that takes its time: how close a job comes to what its slots allow."""

from __future__ import annotations

from typing import Final

from benchmarks.bounds import Delays, ideal_s
from benchmarks.figures import figure
from benchmarks.setting import Report, Setting, run_job, say, write_manifest
from benchmarks.target import slow_target

_DELAYS: Final = Delays(usual_s=0.05, slow_s=2.0, slow_share=0.01, seed=5)


def measure(setting: Setting) -> Report:
    """Cancel once, for it takes its time, and compare with list scheduling."""
    folder = setting.new_folder("service")
    manifest = folder / "invoices.csv"
    ids = write_manifest(manifest, setting.service_rows)
    ideal = ideal_s(map(_DELAYS.of, ids), places=setting.concurrency)
    say(f"service: {ideal:.1f} s at best")
    with slow_target(_DELAYS) as target:
        ended = run_job(
            manifest=manifest, base_url=target.base_url, concurrency=setting.concurrency, folder=folder
        )
    took_s: float = ended.json()["duration_s"]
    slow = sum(_DELAYS.of(invoice_id) == _DELAYS.slow_s for invoice_id in ids)
    return Report(
        title=(
            f"Time-bound service: {setting.service_rows:,} rows, {_DELAYS.usual_s * 1000:.0f} ms a reply, "
            f"{slow:,} of them {_DELAYS.slow_s:g} s, {setting.concurrency} in flight"
        ),
        header=("", "ideal, s", "took, s", "ratio", "CPU us an invoice"),
        rows=[
            (
                "batchcancel",
                f"{ideal:.2f}",
                f"{took_s:.2f}",
                f"{took_s / ideal:.4f}",
                f"{ended.cpu_s / len(ids) * 1e6:,.0f}",
            )
        ],
        notes=["The ideal is list scheduling: each row in its turn on the first slot that is free."],
        figures={
            "ideal_s": ideal,
            "slow_replies": slow,
            "took_s": figure([took_s]),
            "ratio": figure([took_s / ideal]),
            "cpu_us_an_invoice": figure([ended.cpu_s / len(ids) * 1e6]),
        },
    )
