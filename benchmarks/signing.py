"""Signatures a second of one core: every way to sign, against the official SDK."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from batchcancel.sandbox.throwaway import ThrowawayKeys
from benchmarks.figures import Figure, figure, ratio
from benchmarks.process import ROOT, Command, run
from benchmarks.setting import CREDENTIALS, Report, Setting, p12_credentials, say
from benchmarks.yardsticks.signing_task import WAYS, reply_file

_NAMES: Final = {
    "jwt": "jwt (HS256)",
    "http_signature": "http_signature",
    "p12": "p12 (RS256)",
    "p12_encrypted": "p12, body encrypted",
    "decrypt": "a reply decrypted",
}
_REPLY: Final = {
    "id": "INV-00000001",
    "submitTimeUtc": "2026-01-01T00:00:00Z",
    "status": "CANCELED",
    "invoiceInformation": {"invoiceNumber": "INV-00000001", "dueDate": "2026-12-31"},
    "orderInformation": {
        "amountDetails": {"totalAmount": "100.00", "balanceAmount": "100.00", "currency": "USD"}
    },
}


def measure(setting: Setting) -> Report:
    """Let batchcancel and the SDK sign in turn, way after way, round after round."""
    keys = setting.keys()
    _write_reply(keys)
    pythons = {"own": Path(sys.executable)}
    if setting.sdk_python is not None:
        pythons["sdk"] = setting.sdk_python
    measured: dict[tuple[str, str], list[float]] = {(way, who): [] for way in WAYS for who in pythons}
    rsa: list[float] = []
    for number in range(setting.rounds):
        for (way, who), per_cpu_s in measured.items():
            command: Command = [pythons[who], "-m", f"benchmarks.yardsticks.{who}_signing", way]
            flags: Command = ["--folder", keys.folder, "--least-s", str(setting.signing_s)]
            ended = run([*command, *flags], folder=ROOT, env=_credentials(way, keys))
            per_cpu_s.append(ended.json()["per_cpu_s"])
        rsa.append(measure_rsa(setting)[0])
        say(f"signing, round {number + 1}: done")
    return _report(measured, rsa)


def measure_rsa(setting: Setting) -> tuple[float, float]:
    """Make RSA signatures in as many threads as there are cores.

    Returns:
        Signatures a second, and a second of CPU time: so many that all cores make if nobody else uses them.
    """
    keys = setting.keys()
    command: Command = [sys.executable, "-m", "benchmarks.yardsticks.rsa", keys.signing_p12]
    flags: Command = ["--password-file", keys.password_file, "--threads", str(cores())]
    told = run([*command, *flags, "--seconds", str(setting.signing_s)], folder=ROOT).json()
    return told["per_s"], told["per_cpu_s"]


def cores() -> int:
    """Return how many cores there are for this process."""
    return len(os.sched_getaffinity(0))


def _credentials(way: str, keys: ThrowawayKeys) -> dict[str, str]:
    if way in {"jwt", "http_signature"}:
        return CREDENTIALS | {"BATCHCANCEL_AUTH": way}
    return CREDENTIALS | p12_credentials(keys, mle="off" if way == "p12" else "both")


def _write_reply(keys: ThrowawayKeys) -> None:
    certificate = keys.read().response
    assert certificate is not None  # noqa: S101 - throwaway keys are complete
    encrypted = certificate.encrypt(json.dumps(_REPLY).encode(), time.time())
    reply_file(keys.folder).write_text(json.dumps({"encryptedResponse": encrypted}), encoding="ascii")


def _report(measured: dict[tuple[str, str], list[float]], rsa: list[float]) -> Report:
    rows: list[tuple[str, ...]] = []
    figures: dict[str, object] = {}
    for way in WAYS:
        own, sdk = measured[way, "own"], measured.get((way, "sdk"))
        times: Figure | None = ratio(own, sdk) if sdk else None
        rows.append(
            (
                _NAMES[way],
                figure(own).text(),
                figure(sdk).text() if sdk else "",
                times.text(",.1f") if times else "",
            )
        )
        figures[way] = {
            "per_cpu_s": figure(own),
            "sdk_per_cpu_s": figure(sdk) if sdk else None,
            "batchcancel_is_times_as_fast": times,
        }
    return Report(
        title="Signatures a second of one core's CPU time, as a job makes them",
        header=("", "batchcancel", "official SDK", "batchcancel is x times"),
        rows=rows,
        notes=[
            f"RSA alone, in {cores()} threads on as many cores: {figure(rsa).text()} signatures a second.",
            *([] if ("jwt", "sdk") in measured else ["The official SDK was left out: no --sdk-python."]),
        ],
        figures={"ways": figures, "rsa_in_threads_per_s": figure(rsa), "threads": cores()},
    )
