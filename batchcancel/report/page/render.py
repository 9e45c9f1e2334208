"""The page's template filled in: the only user of Jinja, which the extra ``report`` installs."""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import version
from importlib.resources import files
from typing import Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from batchcancel.model import utc_text
from batchcancel.report.figures import Figures
from batchcancel.report.page.parts import NUMBER_COLUMNS, parts_of
from batchcancel.report.sample import COLUMNS, TableData
from batchcancel.report.words import show_time

_FOLDER: Final = files("batchcancel.report.page")


def render_page(figures: Figures, rows: TableData) -> bytes:
    """Write the page.

    Every text of a ledger is escaped by the template; only the package's own style sheet and script,
    whose hashes the page's policy names, and the charts, which are made of escaped texts, are not.

    Args:
        figures: What the ledgers come to.
        rows: Of the table.

    Returns:
        The whole page, UTF-8.
    """
    style, script = _own("page.css"), _own("page.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(_FOLDER.joinpath("page.html.j2").read_text(encoding="utf-8"))
    text = template.render(
        **parts_of(figures, rows),
        policy=_policy(style, script),
        style=style,
        script=script,
        rows=Markup(rows.encoded),  # noqa: S704 - base64
        columns=COLUMNS,
        number_columns=NUMBER_COLUMNS,
        made_at=show_time(utc_text()),
        version=version("batchcancel"),
    )
    return text.encode(errors="replace")


def _own(name: str) -> Markup:
    return Markup(_FOLDER.joinpath(name).read_text(encoding="utf-8"))  # noqa: S704 - the package's own file


def _policy(style: str, script: str) -> str:
    """Forbid every request, every other script and every other style."""
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
