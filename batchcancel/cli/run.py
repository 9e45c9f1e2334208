"""``batchcancel run``: the main job."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from types import UnionType
from typing import Any, get_args, get_origin

import click
from msgspec import Meta

from batchcancel.cli import say
from batchcancel.settings.options import HINTS, Options


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add every flag of ``Options`` to a command, in their order."""
    for name in reversed(Options.__struct_fields__):
        hint, meta = get_args(HINTS[name])
        if not meta.extra["flag"]:
            continue
        command = _option(name, hint, meta)(command)
    return command


def _option(name: str, hint: Any, meta: Meta) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # noqa: ANN401
    """Make one flag; its value goes on as text, settings convert and check it."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kind = kinds[0]
    flag = "--" + name.replace("_", "-")
    given: dict[str, Any] = {"default": None, "help": _help(name, meta)}
    if kind is bool:
        given["is_flag"] = True
    elif get_origin(kind) is tuple:
        given |= {"multiple": True, "metavar": (meta.extra or {})["metavar"]}
    elif isinstance(kind, type) and issubclass(kind, StrEnum):
        given["type"] = click.Choice([str(choice) for choice in kind])
    else:
        given["metavar"] = (meta.extra or {})["metavar"]
    return click.option(flag, name, **given)


def _help(name: str, meta: Meta) -> str:
    default = Options.__struct_defaults__[Options.__struct_fields__.index(name)]
    shown = f" (default: {default:g})" if isinstance(default, int | float) and default is not False else ""
    if isinstance(default, str):
        shown = f" (default: {default})"
    return f"{meta.description}{shown}"


@click.command(context_settings={"max_content_width": 100})
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...")
@_options
def run(manifests: tuple[str, ...], **flags: Any) -> int:  # noqa: ANN401 - checked by settings
    """Cancel the invoices that MANIFEST names, and write what became of each into a ledger.

    MANIFEST is a CSV, TSV, JSONL or plain text file of invoice ids, also as .gz; - is standard input.
    Run the same command again after any interruption: what has an answer is not asked again.

    Credentials come from the environment or batchcancel.toml, never from the command line:
    BATCHCANCEL_MERCHANT_ID, BATCHCANCEL_KEY_ID, BATCHCANCEL_SHARED_SECRET (or _FILE).
    """
    from batchcancel.cli.observers import observing  # noqa: PLC0415 - help has to be quick
    from batchcancel.cli.session import run_job  # noqa: PLC0415 - likewise
    from batchcancel.settings import load_receivers, load_settings  # noqa: PLC0415 - likewise

    given = {name: value for name, value in flags.items() if value is not False}
    with observing(load_receivers(**given)) as observers:
        settings = load_settings(manifests, **given)
        for warning in settings.warnings:
            say(f"Warning: {warning}", fg="yellow")
        code = run_job(settings, observers)
        observers.end(code)
        return code
