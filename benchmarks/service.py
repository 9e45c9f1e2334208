"""A service that takes its time: how close a job comes to what its slots allow."""

from __future__ import annotations

import sys
from typing import Final

from benchmarks.bounds import Delays, ideal_s
from benchmarks.setting import Report, Setting, run_job, run_yardstick, say, write_manifest
from benchmarks.target import slow_target

_DELAYS: Final = Delays(usual_s=0.05, slow_s=2.0, slow_share=0.01, seed=5)


def measure(setting: Setting) -> Report:
    """Let batchcancel and the bare loop cancel once each, for it takes long, and compare with the ideal."""
    folder = setting.new_folder("service")
    manifest = folder / "invoices.csv"
    ids = write_manifest(manifest, setting.service_rows)
    delays_s = [_DELAYS.of(invoice_id) for invoice_id in ids]
    ideal = ideal_s(delays_s, places=setting.concurrency)
    say(f"service: {ideal:.1f} s at best, twice")
    with slow_target(_DELAYS) as target:
        url, most = target.base_url, setting.concurrency
        clients = {
            "batchcancel": run_job(manifest=manifest, base_url=url, concurrency=most, folder=folder),
            # What the server and the machine add: it does nothing that could be left out.
            "bare": run_yardstick(
                "bare",
                python=sys.executable,
                manifest=manifest,
                base_url=url,
                concurrency=most,
                folder=folder,
            ),
        }
    took_s: dict[str, float] = {name: ended.json()["duration_s"] for name, ended in clients.items()}
    slow = delays_s.count(_DELAYS.slow_s)
    return Report(
        title=(
            f"Time-bound service: {setting.service_rows:,} rows, {_DELAYS.usual_s * 1000:.0f} ms a reply, "
            f"{slow:,} of them {_DELAYS.slow_s:g} s, {setting.concurrency} in flight"
        ),
        header=("", "ideal, s", "took, s", "ratio"),
        rows=[
            (name, f"{ideal:.2f}", f"{seconds:.2f}", f"{seconds / ideal:.4f}")
            for name, seconds in took_s.items()
        ],
        notes=["The ideal is list scheduling: each row in its turn on the first slot that is free."],
        figures={
            "ideal_s": ideal,
            "slow_replies": slow,
            "clients": {
                name: {"took_s": seconds, "ratio": seconds / ideal} for name, seconds in took_s.items()
            },
        },
    )
