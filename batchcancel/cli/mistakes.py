"""What is said about a mistyped command, flag or word: one line, with the nearest right one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click


class Word(click.Choice[str]):
    """A value that is one of a few words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's
        """Return the word.

        Raises:
            click.UsageError: It is none of them; names the nearest.
        """
        *words, last = map(str, self.choices)
        if value not in self.choices:
            name = param.opts[0] if isinstance(param, click.Option) else "This command"
            raise click.UsageError(
                f"{name} takes {', '.join(words)} or {last}, not {str(value)!r}."
                f"{did_you_mean(str(value), [*words, last])}",
                ctx,
            )
        return super().convert(value, param, ctx)


def did_you_mean(written: str, known: Iterable[str]) -> str:
    """Return a question to end a sentence with: the nearest known word; empty if none is near."""
    from difflib import get_close_matches  # noqa: PLC0415 - for errors only

    nearest = get_close_matches(written, list(known), n=1)
    return f" Did you mean {nearest[0]}?" if nearest else ""


def sentence(error: click.ClickException) -> str:
    """Say what is wrong with a command line, in one sentence."""
    if isinstance(error, click.NoSuchOption):
        flags = [] if error.ctx is None else error.ctx.command.get_params(error.ctx)
        known = [name for one in flags if isinstance(one, click.Option) for name in one.opts]
        return f"There is no flag {error.option_name}.{did_you_mean(error.option_name, known)}"
    said = error.format_message()
    return said if said.endswith((".", "?")) else f"{said}."
