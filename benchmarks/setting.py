"""What all parts have in common: how much to do, where, and with which throwaway keys."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batchcancel.sandbox.throwaway import ThrowawayKeys, keys_in
from benchmarks.figures import table
from benchmarks.process import COMMAND, ROOT, BenchmarkError, Command, Ended, run

MERCHANT_ID: Final = "benchmark_merchant"
CREDENTIALS: Final = {
    "BATCHCANCEL_MERCHANT_ID": MERCHANT_ID,
    "BATCHCANCEL_KEY_ID": "00000000-0000-4000-8000-000000000001",
    "BATCHCANCEL_SHARED_SECRET": "b3BlbnMgbm90aGluZywgb3BlbnMgbm90aGluZywgbm8=",
}
"""They open nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How much is done, and with what."""

    folder: Path
    """Empty, for this run of the benchmarks alone; the last ledger of each part stays there."""
    rounds: int
    rows: int
    """Invoices a job cancels."""
    service_rows: int
    """Invoices where replies take their time."""
    scale_rows: int
    """The longest manifest."""
    plot: Path | None
    """Where the longest run is drawn; None draws nothing."""
    concurrency: int
    """Most requests in flight."""
    signing_s: float
    """How long each way to sign is measured in a round."""
    nginx: Path | None
    """None if the benchmarks' own server stands in for it."""
    wrk: Path | None
    """None leaves it out."""
    sdk_python: Path | None
    """A Python that has the official SDK; None leaves the SDK out."""

    def new_folder(self, name: str) -> Path:
        """Make an empty folder."""
        made = self.folder / name
        made.mkdir()
        return made

    def keys(self) -> ThrowawayKeys:
        """Return this run's keys, made when they are first asked for."""
        return keys_in(self.folder / "keys", MERCHANT_ID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a part has found."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str]
    figures: dict[str, object]
    """The same for programs: for each thing measured its medians and spreads."""

    def text(self) -> str:
        """Write it for people."""
        return "\n".join([self.title, "", table(self.header, self.rows), *self.notes]) + "\n"


def p12_credentials(keys: ThrowawayKeys, *, mle: str) -> dict[str, str]:
    """Return the variables that sign with a certificate, and encrypt as ``BATCHCANCEL_MLE`` says."""
    credentials = {
        "BATCHCANCEL_MERCHANT_ID": MERCHANT_ID,
        "BATCHCANCEL_AUTH": "p12",
        "BATCHCANCEL_P12_FILE": str(keys.signing_p12),
        "BATCHCANCEL_P12_PASSWORD_FILE": str(keys.password_file),
        "BATCHCANCEL_MLE": mle,
    }
    if mle == "both":
        credentials["BATCHCANCEL_MLE_RESPONSE_KEY_FILE"] = str(keys.response_p12)
        credentials["BATCHCANCEL_MLE_RESPONSE_KEY_PASSWORD_FILE"] = str(keys.password_file)
    return credentials


def write_manifest(path: Path, rows: int) -> list[str]:
    """Write a manifest and return its ids."""
    ids = [f"INV-{number:08d}" for number in range(rows)]
    path.write_text("".join(f"{line}\n" for line in ("invoice_id", *ids)), encoding="utf-8")
    return ids


def count_rows(manifest: Path) -> int:
    """Return how many invoices a manifest names that ``write_manifest`` wrote."""
    return manifest.read_bytes().count(b"\n") - 1


def run_job(
    *,
    manifest: Path,
    base_url: str,
    concurrency: int,
    folder: Path,
    env: Mapping[str, str] = CREDENTIALS,
    flags: Command = ("--progress", "none"),
    on_terminal: bool = False,
) -> Ended:
    """Cancel a manifest's invoices with the installed command, in a new ledger, and check that.

    Its standard error may be a terminal, as for somebody who watches.

    Raises:
        BenchmarkError: It failed, or its ledger says that not every invoice was canceled.
    """
    ledger = folder / "run.ledger.jsonl"
    ledger.unlink(missing_ok=True)
    command: Command = [COMMAND, "run", manifest, "--env", "sandbox", "--base-url", base_url]
    limits: Command = ["--ledger", ledger, "--concurrency", str(concurrency), "--log-level", "warning"]
    ended = run([*command, *limits, "--json", *flags], folder=folder, env=env, on_terminal=on_terminal)
    told, rows = ended.json()["outcomes"]["canceled"], count_rows(manifest)
    written = ledger.read_bytes().count(b'"outcome":"canceled"')
    if not told == written == rows:
        raise BenchmarkError(f"Of {rows} invoices {told} were canceled and {written} are in the ledger.")
    return ended


def run_yardstick(
    name: str, *, python: str | Path, manifest: Path, base_url: str, concurrency: int, folder: Path
) -> Ended:
    """Settle a manifest's invoices with one of ``benchmarks/yardsticks``.

    Raises:
        BenchmarkError: It failed, or did not settle every invoice.
    """
    command: Command = [python, "-m", f"benchmarks.yardsticks.{name}", manifest, "--folder", folder]
    most = ["--concurrency", str(concurrency)]
    ended = run([*command, "--base-url", base_url, *most], folder=ROOT, env=CREDENTIALS)
    settled, rows = ended.json()["settled"], count_rows(manifest)
    if settled != rows:
        raise BenchmarkError(f"{name} settled {settled} of {rows} invoices.")
    return ended


def say(text: str) -> None:
    """Tell whoever waits what is being done."""
    print(text, file=sys.stderr, flush=True)
