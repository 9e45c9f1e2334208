"""``batchcancel completion``: how shells complete commands, flags, words and paths.

click does the work. Its scripts and classes are mended where they lose what stands before the ``=`` of
``--env=test``, and where fish cuts a description at its first comma.
"""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

from batchcancel.cli import COMPLETION_VARIABLE, write_out
from batchcancel.cli.exit_codes import ExitCode
from batchcancel.cli.help import TaskCommand
from batchcancel.cli.mistakes import Word


class _Bash(BashComplete):
    """bash hands ``--env=te`` over as three words and replaces only the last of them."""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        joints = {number + 1 for number, word in enumerate(args) if word.startswith("--")}
        return [word for number, word in enumerate(args) if word != "=" or number not in joints], incomplete


class _Whole(ShellComplete):
    """zsh and fish replace the whole of ``--env=te``, so that the flag has to come back too."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        items = super().get_completions(args, incomplete)
        flag, joint, _ = incomplete.partition("=")
        if flag.startswith("--") and joint:
            for item in items:
                item.value = flag + joint + item.value if item.type == "plain" else item.value
        return items


class _Zsh(_Whole, ZshComplete):
    """Paths are zsh's own, and begin behind the flag."""

    source_template = ZshComplete.source_template.replace(
        "_path_files", "compset -P '--*='\n            _path_files"
    )


class _Fish(_Whole, FishComplete):
    """Only the first comma ends what is not the description."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')


_SHELLS: Final[dict[str, type[ShellComplete]]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def register() -> None:
    """Let click answer shells by the mended classes."""
    for shell in _SHELLS.values():
        add_completion_class(shell)


@click.command(
    cls=TaskCommand,
    examples=[
        ("For bash, in a line of ~/.bashrc", 'eval "$(batchcancel completion bash)"'),
        ("For zsh, in a folder of its fpath", 'batchcancel completion zsh > "${fpath[1]}/_batchcancel"'),
        ("For fish", "batchcancel completion fish > ~/.config/fish/completions/batchcancel.fish"),
    ],
)
@click.argument("shell", type=Word(list(_SHELLS)), metavar="bash|zsh|fish")
def completion(shell: str) -> int:
    """Print the script that lets a shell complete commands, flags, words and paths."""
    from batchcancel.cli import batchcancel  # noqa: PLC0415 - it is being imported when this module is

    made = _SHELLS[shell](batchcancel, {}, "batchcancel", COMPLETION_VARIABLE)
    # Not its source(): for bash that starts another one to ask for its version.
    is_written = write_out(made.source_template % made.source_vars())
    return ExitCode.DONE if is_written else ExitCode.USAGE
