"""A whole job that signs with a certificate: its share of what RSA allows, and what encryption costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.bounds import bound_per_s
from benchmarks.figures import Figure, figure, ratio
from benchmarks.setting import CREDENTIALS, Report, Setting, p12_credentials, run_job, say, write_manifest
from benchmarks.signing import cores, measure_rsa
from benchmarks.target import Target, fast_target

_FORMS: Final = (",.0f", ",.0f", ",.0f", ".2f")
"""How each column is written."""


@dataclass(frozen=True, slots=True)
class _Rounds:
    """What jobs of one kind took, round by round."""

    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """An invoice's CPU time in the client, without its start-up."""
    server_cpu_us: list[float] = field(default_factory=list)


def measure(setting: Setting) -> Report:
    """Cancel with a shared secret, with a certificate, and with encryption, in turn, round after round."""
    keys, folder = setting.keys(), setting.new_folder("p12-job")
    kinds = {
        "jwt": CREDENTIALS,
        "p12": p12_credentials(keys, mle="off"),
        "p12, MLE=request": p12_credentials(keys, mle="request"),
        "p12, MLE=both": p12_credentials(keys, mle="both"),
    }
    measured = {kind: _Rounds() for kind in kinds}
    rsa: list[tuple[float, float]] = []
    with fast_target(setting.new_folder("p12-target"), nginx=setting.nginx) as target:
        for number in range(setting.rounds):
            rsa.append(measure_rsa(setting))
            for kind, env in kinds.items():
                _measure_job(setting, target, folder, env, measured[kind])
                say(f"p12-job, round {number + 1}: {kind} {measured[kind].per_s[-1]:,.0f} a second")
    return _report(setting, target, measured, rsa)


def _measure_job(
    setting: Setting, target: Target, folder: Path, env: Mapping[str, str], rounds: _Rounds
) -> None:
    """Run a job, and one of a single row, which tells what the start alone costs."""
    one, all_ = folder / "one.csv", folder / "invoices.csv"
    write_manifest(one, 1)
    write_manifest(all_, setting.rows)
    url, most = target.base_url, setting.concurrency
    start = run_job(manifest=one, base_url=url, concurrency=most, folder=folder, env=env)
    server_before_s = target.cpu_s()
    ended = run_job(manifest=all_, base_url=url, concurrency=most, folder=folder, env=env)
    rounds.server_cpu_us.append((target.cpu_s() - server_before_s) / setting.rows * 1e6)
    rounds.cpu_us.append((ended.cpu_s - start.cpu_s) / setting.rows * 1e6)
    rounds.per_s.append(setting.rows / ended.json()["duration_s"])


def _report(
    setting: Setting, target: Target, measured: dict[str, _Rounds], rsa: list[tuple[float, float]]
) -> Report:
    plain, p12 = measured["jwt"], measured["p12"]
    rsa_per_s, rsa_us = [per_s for per_s, _ in rsa], [1e6 / per_cpu_s for _, per_cpu_s in rsa]
    bounds = [
        bound_per_s(rsa_per_s=signed, other_cpu_s=(own + server) / 1e6, cores=cores())
        for signed, own, server in zip(rsa_per_s, plain.cpu_us, plain.server_cpu_us, strict=True)
    ]
    least_us = [signature + other for signature, other in zip(rsa_us, plain.cpu_us, strict=True)]
    rows: list[tuple[str, ...]] = []
    jobs: dict[str, dict[str, Figure]] = {}
    for kind, rounds in measured.items():
        jobs[kind] = {
            "per_s": figure(rounds.per_s),
            "cpu_us_an_invoice": figure(rounds.cpu_us),
            "server_cpu_us_an_invoice": figure(rounds.server_cpu_us),
            "share_of_p12": ratio(rounds.per_s, p12.per_s),
        }
        texts = (number.text(form) for number, form in zip(jobs[kind].values(), _FORMS, strict=True))
        rows.append((kind, *texts))
    of_rsa, of_bound = ratio(p12.per_s, rsa_per_s), ratio(p12.per_s, bounds)
    over_least = ratio(p12.cpu_us, least_us)
    alone = f"RSA alone, {cores()} threads on as many cores: {figure(rsa_per_s).text()} a second"
    least = (
        f"CPU time, which others at work hardly change: {figure(rsa_us).text()} us for RSA and the jwt job's "
        f"for the rest make {figure(least_us).text()} us"
    )
    left = (
        "The same cores do the rest of the job and serve it, too. With the jwt job's CPU time and the "
        f"server's as that rest, they have room for {figure(bounds).text()} a second"
    )
    return Report(
        title=f"A whole job with a certificate, {setting.rows:,} rows, target {target.name}",
        header=("", "invoices a second", "CPU us an invoice", "server's CPU us", "of p12 alone"),
        rows=rows,
        notes=[
            f"{alone}; the job reaches {of_rsa.text('.2f')} of that.",
            f"{left}; the job reaches {of_bound.text('.2f')} of that.",
            f"{least}; the job takes {over_least.text('.2f')} times that.",
            "CPU time is counted without start-up. Replies come plain, which MLE=both allows.",
        ],
        figures={
            "target": target.name,
            "jobs": jobs,
            "rsa_per_s": figure(rsa_per_s),
            "rsa_cpu_us": figure(rsa_us),
            "bound_per_s": figure(bounds),
            "p12_of_rsa": of_rsa,
            "p12_of_bound": of_bound,
            "p12_cpu_over_least": over_least,
        },
    )
