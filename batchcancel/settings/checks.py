"""What has to hold between options, whether a run or an explanation of the settings asks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from batchcancel.errors import SettingsError
from batchcancel.settings.config_file import is_file
from batchcancel.settings.options import FILES, Options
from batchcancel.settings.words import Auth, Environment

DEFAULT_RATE: Final = 20.0
"""Requests a second. The service publishes no limit, so the default is low."""
MISSING_LEDGER: Final = (
    "Say where the results go with --ledger: it is needed for standard input, for a pipe and for "
    "several manifests."
)


def check_merchants(options: Options, sources: Mapping[str, str]) -> None:
    """Refuse a rate for each merchant where the manifest names none."""
    if options.rate_per_merchant is not None and options.merchant_column is None:
        raise SettingsError(
            f"{sources['rate_per_merchant']} goes with --merchant-column, which says whose "
            "invoice a row is; use --rate otherwise."
        )


def check_roots(options: Options, sources: Mapping[str, str]) -> None:
    """Refuse private root certificates that are not there."""
    if options.ca_file and not is_file(Path(options.ca_file)):
        raise SettingsError(f"{sources['ca_file']}: {options.ca_file} is no file.")


def check_metrics(options: Options, sources: Mapping[str, str]) -> None:
    """Refuse an address for a port that nobody asked for."""
    if options.metrics_port is None and "metrics_host" in sources:
        raise SettingsError(f"{sources['metrics_host']} goes with --metrics-port.")


def refuse_both(options: Options, sources: Mapping[str, str], name: str, what: str) -> None:
    """Refuse a secret that one source gives both itself and as a file: nobody could tell which one counts."""
    if getattr(options, name) and getattr(options, f"{name}_file"):
        raise SettingsError(
            f"Give either {what} or the file that holds it, not both: "
            f"{sources[name]} and {sources[f'{name}_file']} are set."
        )


def check_paths(options: Options, ledger: Path | None, manifests: Sequence[str]) -> None:
    """Refuse to write a file that is another file of the run: it would be replaced or appended to."""
    named = (getattr(options, name) for name in sorted(FILES))
    read = [*([] if ledger is None else [ledger]), *manifests, *(path for path in named if path)]
    written = [path for path in (options.log_file, options.report) if path]
    _keep_apart("The log", options.log_file, read, "the ledger or a file that is read")
    _keep_apart("The metrics", options.metrics_file, read, "the ledger or a file that is read")
    _keep_apart("The metrics", options.metrics_file, written, "the log or the page")


def _keep_apart(what: str, path: str | None, others: Sequence[str | Path], which: str) -> None:
    if path is None:
        return
    try:
        is_other = os.path.realpath(path) in map(os.path.realpath, others)
    except ValueError:
        raise SettingsError("A path holds a NUL character.") from None
    if is_other:
        raise SettingsError(f"{what} can't go to {path}: that is {which}.")


def warn_of_auth(options: Options, warnings: list[str]) -> None:
    """Add a sentence about a way to sign that will not last."""
    if options.auth is Auth.HTTP_SIGNATURE:
        warnings.append(
            "HTTP Signature is to be migrated to JWT by March 2027; create a REST shared secret key and "
            "set BATCHCANCEL_AUTH=jwt."
        )


def rate_of(options: Options, environment: Environment | None) -> float | None:
    """Return the requests a second for all merchants together; None for no limit.

    Args:
        options: The options as given.
        environment: What is called; None if that was not said.
    """
    if options.rate is not None:
        return options.rate
    is_unlimited = environment is Environment.SANDBOX or options.rate_per_merchant is not None
    return None if is_unlimited else DEFAULT_RATE


def ledger_of(manifests: Sequence[str], options: Options, environment: Environment) -> Path | None:
    """Return where results go; None if that was not said, and is not known by the manifest's name."""
    if options.ledger is not None:
        return Path(options.ledger)
    if len(manifests) != 1 or manifests[0] == "-" or _is_fifo(Path(manifests[0])):
        return None
    path = Path(manifests[0])
    if path.suffix.lower() == ".gz":
        path = path.with_suffix("")
    return Path(f"{path.stem}.{environment}.ledger.jsonl")


def _is_fifo(path: Path) -> bool:
    """Tell whether a manifest is a pipe, such as a shell's <(...): its name differs from run to run."""
    try:
        return path.is_fifo()
    except (OSError, ValueError):
        return False  # it can't be opened either, and the manifest's reader says so
