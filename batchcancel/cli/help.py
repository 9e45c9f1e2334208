"""How help is shown: examples first, then flags by what they are for, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Example = tuple[str, str]
"""What somebody wants to do, and the command line that does it."""

_Command = TypeVar("_Command", bound=Callable[..., Any])

MAX_WIDTH: Final = 100
_FLAG_WIDTH: Final = 30
"""Flags up to this long have their description beside them, longer ones below."""
_OTHERS: Final = "Help"


class TaskOption(click.Option):
    """A flag that stands in a section of its command's help."""

    def __init__(self, *names: Any, task: str, **attributes: Any) -> None:  # noqa: ANN401 - click's
        super().__init__(*names, **attributes)
        self.task = task


def flag(*names: str, task: str, **attributes: Any) -> Callable[[_Command], _Command]:  # noqa: ANN401 - click's
    """Add a flag to a command, in the section of its help that ``task`` names."""
    return click.option(*names, cls=TaskOption, task=task, **attributes)


class TaskCommand(click.Command):
    """A command whose help has examples, and sections in the order of their first flags."""

    def __init__(self, *args: Any, examples: Sequence[Example] = (), **attributes: Any) -> None:  # noqa: ANN401 - click's
        """Prepare.

        Args:
            *args: click's.
            examples: In the order in which they are shown.
            **attributes: click's.
        """
        attributes["context_settings"] = {
            "help_option_names": ["-h", "--help"],
            "max_content_width": MAX_WIDTH,
            **(attributes.get("context_settings") or {}),
        }
        super().__init__(*args, **attributes)
        self.examples = tuple(examples)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the command does, then the examples."""
        super().format_help_text(ctx, formatter)
        write_examples(formatter, self.examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each task, all descriptions at one column."""
        sections: dict[str, list[tuple[str, str]]] = {}
        others = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None and isinstance(parameter, TaskOption):
                sections.setdefault(parameter.task, []).append(record)
            elif record is not None:
                others.append(record)
        sections[_OTHERS] = others
        longest = max(len(shown) for records in sections.values() for shown, _ in records)
        width = min(longest, _FLAG_WIDTH)
        for task, records in sections.items():
            with formatter.section(task):
                formatter.write_dl([(shown.ljust(width), text) for shown, text in records], _FLAG_WIDTH)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Describe ``--help`` as other flags are described."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.help = "show this and exit"
        return option


def write_examples(formatter: click.HelpFormatter, examples: Sequence[Example]) -> None:
    """Write a section of examples; a command line is never broken."""
    if not examples:
        return
    with formatter.section("Examples"):
        for number, (purpose, line) in enumerate(examples):
            if number:
                formatter.write_paragraph()
            formatter.write_text(f"{purpose}:")
            formatter.write(f"{'':>{formatter.current_indent + 2}}{line}\n")


def complete_path(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Have the shell complete a path; for values that settings check and click hands on as text."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - help has to be quick

    return [CompletionItem(incomplete, type="file")]
