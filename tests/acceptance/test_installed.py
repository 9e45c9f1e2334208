"""What is tested is what was installed: the built package, complete."""

from __future__ import annotations

import json
import platform
from importlib.metadata import distribution, entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import batchcancel
from batchcancel.cli import main

if TYPE_CHECKING:
    from tests.acceptance.conftest import RunCommand


def test_tests_import_the_installed_package() -> None:
    """The package comes from the installed wheel; from a checkout only if it was installed editable."""
    origin = json.loads(distribution("batchcancel").read_text("direct_url.json") or "{}")
    folder = Path(batchcancel.__file__).parent
    if origin.get("dir_info", {}).get("editable"):
        assert folder == Path(unquote(urlsplit(origin["url"]).path)) / "batchcancel"
    else:
        assert folder == distribution("batchcancel").locate_file("batchcancel")
        assert folder.parent.name == "site-packages"


def test_installed_package_is_marked_as_typed() -> None:
    """Type checkers read the annotations of a package that ships py.typed."""
    assert files(batchcancel).joinpath("py.typed").is_file()


def test_console_script_is_the_command_line() -> None:
    """The entry point leads to the function that ends the process with an exit code."""
    (script,) = entry_points(group="console_scripts", name="batchcancel")
    assert script.load() is main


def test_installed_command_tells_its_version(run_command: RunCommand) -> None:
    """The script on disk runs, its version is the installed distribution's, and Python's is what runs it."""
    done = run_command("--version")
    shown = f"batchcancel {distribution('batchcancel').version}, Python {platform.python_version()}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")
