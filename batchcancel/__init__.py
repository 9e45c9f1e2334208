"""Cancel unpaid Visa Acceptance (Cybersource) invoices in bulk, with a ledger that tells the truth.

The library is the command's own job::

    import asyncio
    from batchcancel import Job, load_settings

    async def main() -> None:
        settings = load_settings(["samples/invoices.csv"], env="sandbox")
        async with Job(settings) as job:
            async for result in job.results():
                print(result.invoice_id, result.outcome)
            print(job.summary.tally)

    asyncio.run(main())
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from batchcancel.errors import BatchCancelError
    from batchcancel.job import Job
    from batchcancel.model import Outcome, Reason, Result, RunState, RunSummary, Tally
    from batchcancel.settings import Settings, load_settings

__all__ = [
    "BatchCancelError",
    "Job",
    "Outcome",
    "Reason",
    "Result",
    "RunState",
    "RunSummary",
    "Settings",
    "Tally",
    "load_settings",
]

_HOMES: Final = {
    "BatchCancelError": "batchcancel.errors",
    "Job": "batchcancel.job",
    "Outcome": "batchcancel.model",
    "Reason": "batchcancel.model",
    "Result": "batchcancel.model",
    "RunState": "batchcancel.model",
    "RunSummary": "batchcancel.model",
    "Settings": "batchcancel.settings",
    "Tally": "batchcancel.model",
    "load_settings": "batchcancel.settings",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever is asked for
    """Import a public name when it is first used: the command's help has to be quick."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
