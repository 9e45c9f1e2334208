"""``submit --detach``: the coordinator as a process of its own, that this one sees off."""

from __future__ import annotations

import asyncio
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from batchcancel.cli import say, write_out
from batchcancel.cluster.running import asking, find_jobs
from batchcancel.errors import SettingsError
from batchcancel.settings import Settings
from batchcancel.settings.engine import EngineOptions

_EVERY_S: Final = 0.3


async def detach(
    settings: Settings, options: EngineOptions, arguments: Sequence[str], _received: list[int]
) -> int:
    """Start a coordinator that nobody has to wait for, and return once its job is there or it has ended.

    It has no terminal to ask on. What it writes is appended to ``LEDGER.submit.out`` and ``.submit.err``.

    Args:
        settings: What it is to do.
        options: Where Temporal is.
        arguments: Of the command that holds the job.

    Returns:
        0 once the job is there; the coordinator's exit code if it has ended before.

    Raises:
        EngineError: Temporal can't be reached.
        SettingsError: A manifest is standard input, which ends with this process.
    """
    if "-" in settings.manifests:
        raise SettingsError("--detach needs a manifest in a file: standard input ends with this command.")
    ledger = settings.ledger.absolute()
    out, err = (ledger.with_name(f"{ledger.name}.submit.{name}") for name in ("out", "err"))
    async with asking(options) as engine:
        earlier = {job.first_run_id for job in await find_jobs(engine)}
        process = _start(arguments, out, err)
        while (code := process.poll()) is None:
            for job in await find_jobs(engine):
                is_this = (job.memo.ledger, job.memo.host) == (str(ledger), platform.node())
                if is_this and job.first_run_id not in earlier:
                    say(f"{job.name} is held by process {process.pid}, whose summary goes to {out}.")
                    say(f"'batchcancel status --follow {job.name}' shows how far it is.")
                    write_out(f"{job.name}\n")
                    return 0
            await asyncio.sleep(_EVERY_S)
    say(f"It has ended already, with exit code {code}: see {out} and {err}.", fg="yellow")
    return code


def _start(arguments: Sequence[str], out: Path, err: Path) -> subprocess.Popen[bytes]:
    with out.open("ab") as output, err.open("ab") as errors:
        return subprocess.Popen(  # noqa: S603 - this command, with the arguments that it was given
            [sys.executable, "-P", "-m", "batchcancel", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
