"""``batchcancel reconcile``: a ledger against the service."""

from __future__ import annotations

import math
import secrets
from pathlib import Path
from typing import Any, Final

import click

from batchcancel.cli import say
from batchcancel.cli.flags import add_flags, given
from batchcancel.cli.help import TaskCommand, flag

_FLAGS: Final = (
    *("env", "base_url", "concurrency", "rate", "rate_per_merchant", "timeout", "max_attempts"),
    *("max_outage", "limit", "max_duration", "json", "progress", "log_format", "log_level", "log_file"),
)
_DIFFERENCES: Final = "The file of differences"
_SAMPLE: Final = "A sample"
_SEEDS: Final = 1_000_000
"""How many samples there are to draw from where no seed is given: few digits to write down."""


class _Percent(click.ParamType[float]):
    """A share in percent; the sign may be written or left out."""

    name = "P%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's
        try:
            percent = float(str(value).strip().removesuffix("%"))
        except ValueError:
            percent = math.nan
        if not 0 < percent <= 100:
            self.fail("it takes a share above 0%, at most 100%", param, ctx)
        return percent


@click.command(
    cls=TaskCommand,
    examples=[
        (
            "Write every difference down",
            "batchcancel reconcile old.ledger.jsonl --env test --differences found.tsv",
        ),
        (
            "Look at one invoice in a hundred, the same ones each time",
            "batchcancel reconcile old.ledger.jsonl --env test --sample 1% --seed 7",
        ),
    ],
)
@click.argument("ledger", type=click.Path(path_type=Path))
@flag(
    "--differences",
    task=_DIFFERENCES,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="write one line an invoice, tab-separated: = * - or ! first, then what each side says",
)
@flag("--force", task=_DIFFERENCES, is_flag=True, help="replace that file if it is there")
@flag(
    "--sample", task=_SAMPLE, type=_Percent(), metavar="P%", help="look at a random part only, at least one"
)
@flag(
    "--seed",
    task=_SAMPLE,
    type=click.IntRange(min=0),
    metavar="N",
    help="draw the sample by this number; the same ledger and seed give the same sample",
)
@add_flags(_FLAGS)
def reconcile(
    ledger: Path,
    differences: Path | None,
    sample: float | None,
    seed: int | None,
    *,
    force: bool,
    **flags: Any,  # noqa: ANN401 - checked by settings
) -> int:
    """Look every invoice of LEDGER up, and list what the service says otherwise.

    Only GET requests leave, at the pace of a run; the ledger is only read, and a run may be writing to it
    meanwhile. Its environment and merchant have to be those that are called.

    \b
    =  the service says what the ledger says, or neither has an answer
    *  they differ: in the status, or in a canceled or paid invoice's amount
    -  the service doesn't know the invoice
    !  the invoice could not be read

    Exit code 0: nothing differs. 3: something does, or could not be read. 2: no ledger, or one of another
    environment or merchant. 4: a safety stop. 6: the ledger is damaged. 7: --limit or --max-duration.
    """  # noqa: D301 - click's mark for lines that stay as they are
    if seed is not None and sample is None:
        raise click.UsageError("--seed says how to draw a sample: say --sample too.")
    from batchcancel.cli.comparing import reconcile_ledger  # noqa: PLC0415 - help has to be quick
    from batchcancel.settings import load_settings  # noqa: PLC0415 - likewise
    from batchcancel.tasks.reconcile import Sample, merchant_column_of  # noqa: PLC0415 - likewise

    settings = load_settings(
        (),
        for_run=False,
        ledger=str(ledger),
        merchant_column=merchant_column_of(ledger),
        **given(flags),
    )
    for warning in settings.warnings:
        say(f"Warning: {warning}", fg="yellow")
    drawn = None
    if sample is not None:
        drawn = Sample(percent=sample, seed=secrets.randbelow(_SEEDS) if seed is None else seed)
    return reconcile_ledger(settings, drawn, differences, force=force)
