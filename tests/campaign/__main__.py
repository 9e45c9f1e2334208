"""Kill the installed command again and again, and check that nothing is lost, wrong or done twice.

``python -m tests.campaign --kills 1000``, from the checkout. Each run is a process of its own, against
the simulator in another one, over real sockets; each is killed with SIGKILL at a random moment and run
again until its manifest is done. What holds is judged from the ledger's bytes and the simulator's log,
by no code of the package.
"""

# ruff: noqa: T201 - a program of its own, whose result is what it prints

from __future__ import annotations

import argparse
import json
import random
import secrets
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Final

from tests.campaign.audit import MOST_REPEATED, Figures
from tests.campaign.lane import run_lane

_LEAST_IN_FLIGHT: Final = 0.8
_SHOWN_VIOLATIONS: Final = 20


def main() -> int:
    """Run a campaign, print its table, and return 0, or 1 if anything was violated."""
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    print(f"seed {arguments.seed}", flush=True)
    began_at = time.monotonic()
    figures = _run(folder, arguments)
    duration_s = time.monotonic() - began_at
    share = figures.with_request_in_flight / max(1, figures.kills)
    violations = list(figures.violations)
    if share < _LEAST_IN_FLIGHT:
        violations.append(f"only {share:.0%} of the kills hit a request in flight")
    print(_table(figures, share=share, duration_s=duration_s))
    for violation in violations[:_SHOWN_VIOLATIONS]:
        print(violation)
    if arguments.json is not None:
        report = asdict(figures) | {
            "seed": arguments.seed,
            "share_in_flight": round(share, 4),
            "bound": MOST_REPEATED,
            "duration_s": round(duration_s, 1),
            "violations": violations,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if violations:
        print(f"{len(violations)} violations; the files are kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--kills", type=int, default=30, metavar="N", help="how many (default: 30)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31), help="default: drawn")
    parser.add_argument("--lanes", type=int, default=2, metavar="N", help="runs at a time (default: 2)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there, too")
    return parser.parse_args()


def _run(folder: Path, arguments: argparse.Namespace) -> Figures:
    """Share the kills out among lanes and add their figures up."""
    lanes = min(arguments.lanes, arguments.kills)
    shares = [len(range(lane, arguments.kills, lanes)) for lane in range(lanes)]
    total = Figures()
    with ThreadPoolExecutor(lanes) as threads:
        running = []
        for lane, share in enumerate(shares):
            chance = random.Random(f"{arguments.seed}-{lane}")  # noqa: S311 - has to be repeatable, not secret
            running.append(
                threads.submit(
                    run_lane, folder / f"lane-{lane}", number=lane, kills=share, chance=chance, say=_say
                )
            )
        for future in running:
            total.add(future.result())
    return total


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _table(figures: Figures, *, share: float, duration_s: float) -> str:
    lines = {
        "kills": f"{figures.kills:,}",
        "with a request in flight": f"{figures.with_request_in_flight:,} ({share:.1%})",
        "runs, the last of each manifest included": f"{figures.runs:,}",
        "manifests": f"{figures.manifests:,} ({figures.of_several_merchants:,} of several merchants)",
        "invoices": f"{figures.invoices:,}",
        "requests": f"{figures.requests:,}",
        "lost": f"{figures.lost:,}",
        "wrong": f"{figures.wrong:,}",
        "rows twice": f"{figures.twice:,}",
        "repeated POSTs in all": f"{figures.repeated:,}",
        "most in one kill": f"{figures.most_repeated_in_one_kill:,}",
        "its bound": f"{figures.bound_of_that_kill:,} (never more than {MOST_REPEATED})",
        "duration": f"{duration_s:,.0f} s",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


if __name__ == "__main__":
    sys.exit(main())
