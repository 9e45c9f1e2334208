"""Compare batchcancel with other ways to do the same, and with what the machine allows.

``python -m benchmarks``, from the checkout, measures everything, prints a table a part and writes
``benchmarks/results.json``. ``python -m benchmarks signing service`` measures these parts alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks import invoices, observers, p12_job, scale, service, signing, startup
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.process import BenchmarkError
from benchmarks.setting import Report, Setting, say
from benchmarks.target import find_nginx

PARTS: Final[dict[str, Callable[[Setting], Report]]] = {
    "invoices": invoices.measure,
    "observers": observers.measure,
    "p12-job": p12_job.measure,
    "signing": signing.measure,
    "help": startup.measure,
    "service": service.measure,
    "scale": scale.measure,
}
_IDLE_LOAD: Final = 0.5
_RESULTS: Final = Path(__file__).with_name("results.json")


def main() -> int:
    """Measure, print, write; return 0, or 1 if something could not be measured."""
    given = _arguments()
    # As an exception, it ends the server and whatever else is running, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    path = given.json or (None if given.parts else _RESULTS)
    parts: list[str] = given.parts or list(PARTS)
    load = os.getloadavg()[0]
    if load > _IDLE_LOAD:
        print(f"The machine is not idle, its load is {load:.1f}: only CPU times count.")
    results: dict[str, object] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "load_before": load,
        "versions": describe_versions(),
    }
    with _folder(given.folder) as folder:
        setting = _setting(given, folder)
        results["parameters"] = _parameters(setting)
        for part in parts:
            try:
                report = PARTS[part](setting)
            except BenchmarkError as exc:
                say(f"{part}: {exc}")
                return 1
            print(f"\n{report.text()}", flush=True)
            results[part] = report.figures
    if path is not None:
        path.write_text(json.dumps(results, indent=2, default=_plain) + "\n", encoding="utf-8")
        say(f"written to {path}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all of them)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--rows", type=int, default=30_000, metavar="N", help="a job's (default: 30000)")
    parser.add_argument(
        "--service-rows", type=int, default=60_000, metavar="N", help="the slow service's (default: 60000)"
    )
    parser.add_argument(
        "--scale-rows",
        type=int,
        default=1_000_000,
        metavar="N",
        help="the longest manifest's (default: 1000000)",
    )
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw its run there, as SVG")
    parser.add_argument("--concurrency", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument(
        "--signing-s", type=float, default=1.0, metavar="S", help="each way to sign, a round (default: 1)"
    )
    parser.add_argument("--without-nginx", action="store_true", help="serve with uvloop even so")
    parser.add_argument("--without-wrk", action="store_true", help="leave it out even so")
    parser.add_argument(
        "--sdk-python",
        type=Path,
        default=os.environ.get("BENCHMARKS_SDK_PYTHON"),
        metavar="PATH",
        help="a Python that has cybersource-rest-client-python and setuptools<=81, in an environment of its "
        "own (default: $BENCHMARKS_SDK_PYTHON; without it the SDK is left out)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write the figures there (default: results.json for all)"
    )
    parser.add_argument(
        "--folder", type=Path, metavar="PATH", help="work in this new folder and keep it (default: temporary)"
    )
    given = parser.parse_args()
    if unknown := set(given.parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    return given


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """Yield an empty folder: one that is kept, or a temporary one."""
    if given is None:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as temporary:
            yield Path(temporary)
        return
    given.mkdir(parents=True)
    yield given.absolute()


def _setting(given: argparse.Namespace, folder: Path) -> Setting:
    wrk = None if given.without_wrk else shutil.which("wrk")
    return Setting(
        folder=folder,
        rounds=given.rounds,
        rows=given.rows,
        service_rows=given.service_rows,
        scale_rows=given.scale_rows,
        plot=given.plot,
        concurrency=given.concurrency,
        signing_s=given.signing_s,
        nginx=None if given.without_nginx else find_nginx(),
        wrk=None if wrk is None else Path(wrk),
        # Not resolved: the environment is found from where the link lies.
        sdk_python=None if given.sdk_python is None else Path(given.sdk_python).absolute(),
    )


def _parameters(setting: Setting) -> dict[str, object]:
    """Return what was asked for; paths are this machine's own and tell nothing."""
    return {
        "rounds": setting.rounds,
        "rows": setting.rows,
        "service_rows": setting.service_rows,
        "scale_rows": setting.scale_rows,
        "concurrency": setting.concurrency,
        "signing_s": setting.signing_s,
    }


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is not for results.json")


if __name__ == "__main__":
    sys.exit(main())
