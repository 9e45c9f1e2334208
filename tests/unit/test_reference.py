"""The reference is made from the code: commands, flags, variables, keys, exit codes, fields.

``.venv/bin/pytest tests/unit --rewrite-docs -k docs`` writes its generated blocks anew.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import pytest
from click.testing import CliRunner

from batchcancel import errors
from batchcancel.cli import batchcancel as group
from batchcancel.cli.exit_codes import ExitCode, of_error
from batchcancel.cli.help import TaskCommand, TaskOption
from batchcancel.errors import BatchCancelError
from batchcancel.ledger.record import EndRecord, ManifestRecord, RunRecord
from batchcancel.model import (
    Outcome,
    PauseCause,
    Reason,
    Result,
    RunState,
    RunSummary,
    Sighting,
    Skip,
    StoppedMerchant,
    Tally,
)
from batchcancel.report import summary_json
from batchcancel.report.exports import COLUMNS
from batchcancel.sandbox import (
    SANDBOX_KEY_ID,
    SANDBOX_MERCHANT_ID,
    SANDBOX_SECRET,
    Sandbox,
    SandboxOptions,
)
from batchcancel.sandbox.answers import Answer
from batchcancel.sandbox.requests import Operation
from batchcancel.sandbox.server import _log_line
from batchcancel.sandbox.wire import WireRequest
from batchcancel.settings.options import ENGINE, FLAG_ONLY, HINTS, LISTS, Options, Task
from batchcancel.settings.takes import allowed
from batchcancel.tasks.reconcile import Mark, Note
from batchcancel.tasks.reconcile.differences import COLUMNS as DIFFERENCES

if TYPE_CHECKING:
    from tests.conftest import HoldBlock, WriteLedger

REFERENCE = Path(__file__).parents[2] / "docs/reference"
COMMANDS = group.list_commands(click.Context(group))


def page(name: str) -> str:
    """Read a page of the reference."""
    return (REFERENCE / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """Return the text of a page under a heading of the second level."""
    return page(name).split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def named(text: str) -> list[str]:
    """Return the names in the first column of the tables in a text, in their order."""
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)]


def table(*rows: tuple[str, ...]) -> Iterator[str]:
    """Write rows as a table of Markdown, the first one as its header."""
    header, *rest = rows
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rest:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
    yield ""


# --- commands -------------------------------------------------------------------------------------


def describe_command(name: str) -> Iterator[str]:
    """Write a section on a command: what it does, examples, its flags by task."""
    command = group.get_command(click.Context(group), name)
    assert isinstance(command, TaskCommand)
    with command.make_context(name, [], resilient_parsing=True) as context:
        arguments = " ".join(command.collect_usage_pieces(context))
        yield f"## {name}"
        yield ""
        yield f"    batchcancel {name} {arguments}"
        yield ""
        yield inspect.cleandoc(command.help or "").replace("<", "\\<").replace("*", "\\*")
        yield ""
        yield "```sh"
        for purpose, line in command.examples:
            yield f"# {purpose}"
            yield line
        yield "```"
        yield ""
        tasks: dict[str, list[tuple[str, ...]]] = {}
        for parameter in command.params:
            if isinstance(parameter, TaskOption):
                record = parameter.get_help_record(context)
                assert record is not None
                tasks.setdefault(parameter.task, []).append((f"`{record[0]}`", record[1].replace("<", "\\<")))
    for task, flags in tasks.items():
        yield from table((task, ""), *flags)


def test_docs_of_commands_are_generated(hold_block: HoldBlock) -> None:
    """Every command, in the order of the help."""
    lines = [line for name in COMMANDS for line in describe_command(name)]
    hold_block("reference/commands.md", "commands", "\n".join(lines))


# --- options --------------------------------------------------------------------------------------


def describe_option(name: str) -> tuple[str, ...]:
    """Write a row on an option: its variable and key, what it takes, its default, what it is for."""
    default = Options.__struct_defaults__[Options.__struct_fields__.index(name)]
    shown = (
        ""
        if default in (None, (), False)
        else f"`{default:g}`"
        if isinstance(default, int | float)
        else f"`{default}`"
    )
    variable = "" if name in FLAG_ONLY else f"`BATCHCANCEL_{name.upper()}`"
    takes = "texts, with commas between them" if name in LISTS else allowed(name)
    description = get_args(HINTS[name])[1].description.replace("<", "\\<")
    return variable or "a flag only", f"`{name}`", takes, shown, description


def options_of(task: Task | None) -> list[str]:
    """Return the options whose flag is in a section of the help; without a task those without a flag."""
    return [name for name, hint in HINTS.items() if get_args(hint)[1].extra.get("task") is task]


HEADER = ("variable", "key, and flag with `-` for `_`", "takes", "default", "what it is for")


def test_docs_of_flags_are_generated(hold_block: HoldBlock) -> None:
    """By what they are for, as in the help."""
    lines: list[str] = []
    for task in Task:
        lines += [f"### {task}", "", *table(HEADER, *map(describe_option, options_of(task)))]
    hold_block("reference/options.md", "flags", "\n".join(lines))


def test_docs_of_keys_are_generated(hold_block: HoldBlock) -> None:
    """Those without a flag, and those that say where Temporal is."""
    header = (HEADER[0], "key", *HEADER[2:])
    keys = [name for name in options_of(None) if name not in ENGINE]
    hold_block("reference/options.md", "keys", "\n".join(table(header, *map(describe_option, keys))))
    hold_block("reference/options.md", "engine", "\n".join(table(header, *map(describe_option, ENGINE))))


def test_every_option_is_in_the_reference_once() -> None:
    """With a flag or without one."""
    both = [name for task in (*Task, None) for name in options_of(task)]
    assert sorted(both) == sorted(Options.__struct_fields__)


def test_every_variable_named_in_the_reference_is_an_option() -> None:
    """Two more choose the file and its profile; one is click's."""
    text = "".join(path.read_text(encoding="utf-8") for path in REFERENCE.glob("*.md"))
    variables = {name.lower() for name in re.findall(r"\bBATCHCANCEL_([A-Z0-9_]+)", text)}
    assert variables - {"config", "profile"} <= set(Options.__struct_fields__)


# --- exit codes -----------------------------------------------------------------------------------


def meanings() -> dict[str, str]:
    """Read what stands below each exit code in its class."""
    (body,) = ast.parse(inspect.getsource(ExitCode)).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for code, text in zip(body.body[1::2], body.body[2::2], strict=True):
        assert isinstance(code, ast.Assign)
        assert isinstance(code.targets[0], ast.Name)
        assert isinstance(text, ast.Expr)
        assert isinstance(text.value, ast.Constant)
        found[code.targets[0].id] = str(text.value.value).replace("``", "`")
    return found


def causes_of(code: ExitCode) -> list[str]:
    """Return the first sentences of the errors that end with a code; of families, their members."""
    found = [
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, BatchCancelError) and not one.__subclasses__()
        if of_error(one()) is code and "never reaches" not in (one.__doc__ or "")
        if not issubclass(one, errors.TransportError)
    ]
    return [
        inspect.cleandoc(one.__doc__ or "").splitlines()[0].rstrip(".").replace("``", "`") for one in found
    ]


def test_docs_of_exit_codes_are_generated(hold_block: HoldBlock) -> None:
    """What each means, and which errors end with it."""
    said = meanings()
    rows = [(str(code.value), said[code.name], "; ".join(causes_of(code))) for code in ExitCode]
    text = "\n".join(table(("code", "meaning", "among others"), *rows))
    hold_block("reference/exit-codes.md", "codes", text)


def test_every_exit_code_has_its_advice() -> None:
    """All but a defect, for which there is none."""
    advised = re.findall(r"^\| (\d) \|", section("exit-codes.md", "What to do"), re.MULTILINE)
    assert [int(code) for code in advised] == [code for code in ExitCode if code is not ExitCode.DEFECT]
    assert all(f"{code}" in page("exit-codes.md") for code in (129, 130, 143))


# --- the ledger -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "fields"),
    [
        ("`run`", ("type", *RunRecord.__struct_fields__, "crc")),
        ("`result`", ("type", "run_id", *Result.__struct_fields__, "crc")),
        ("`skip`", ("type", "run_id", *Skip.__struct_fields__, "crc")),
        ("`sighting`", ("type", "run_id", *Sighting.__struct_fields__, "crc")),
        ("`end`", ("type", *EndRecord.__struct_fields__, "crc")),
    ],
)
def test_every_field_of_the_ledger_is_explained_in_its_order(heading: str, fields: tuple[str, ...]) -> None:
    """The tables are the format."""
    assert named(section("ledger.md", heading)) == list(fields)


def test_the_parts_of_fields_are_named() -> None:
    """What a manifest in `run` says, and what `end` counts."""
    for name in ManifestRecord.__struct_fields__:
        assert f"`{name}`" in section("ledger.md", "`run`")
    for name in ("rows", *Outcome, "settled_earlier", "duplicates", "excluded", "open"):
        assert f"`{name}`" in section("ledger.md", "`end`")
    for state in RunState:
        assert f"`{state}`" in section("ledger.md", "`end`")


def test_every_reason_and_outcome_is_explained() -> None:
    """Each reason has its row, beside the right outcome, and says whether it is asked again."""
    rows = re.findall(
        r"^\|(.*?)\| (`.*?`) \| .*? \| (yes|no) \|$",
        section("ledger.md", "Outcomes and reasons"),
        re.MULTILINE,
    )
    explained, outcome = {}, ""
    for first, reasons, again in rows:
        outcome = first.strip("` ") or outcome
        for reason in re.findall(r"`(\w+)`", reasons):
            explained[reason] = (outcome, again)
    assert explained == {
        reason.value: (reason.outcome.value, "no" if reason.is_final else "yes") for reason in Reason
    }
    assert {outcome for outcome, _ in explained.values()} == set(Outcome)


# --- JSON -----------------------------------------------------------------------------------------


def keys(document: dict[str, Any]) -> Iterator[str]:
    """Yield the keys of a document, those of objects in lists after the list's own as ``list.key``."""
    for key, value in document.items():
        yield key
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield from (f"{key}.{inner}" for inner in keys(value[0]))


def run_document() -> dict[str, Any]:
    """Make a summary in which everything is."""
    summary = RunSummary(
        run_id="r", env="test", host="h", merchant_id="example_merchant", ledger="l", state=RunState.STOPPED,
        why="why", tally=Tally(rows=1, open=1), amounts_canceled={}, duration_s=1.0,
        stopped_merchants=(StoppedMerchant(merchant_id="m", open=1, why="why"),),
    )  # fmt: skip
    document: dict[str, Any] = json.loads(summary_json(summary, exit_code=4))
    return document


def call(*words: str) -> dict[str, Any]:
    """Run a command that writes JSON."""
    document: dict[str, Any] = json.loads(CliRunner().invoke(group, words, standalone_mode=False).stdout)
    return document


@pytest.fixture
def report_document(tmp_path: Path, write_ledger: WriteLedger) -> dict[str, Any]:
    """Report on a ledger with a file and with rows that are left."""
    path = write_ledger(tmp_path / "l.jsonl", {})
    (tmp_path / "m.txt").write_text("9\n", encoding="utf-8")
    words = [
        "--csv",
        f"{tmp_path}/c.csv",
        "--open-rows",
        f"{tmp_path}/o.txt",
        "--manifest",
        f"{tmp_path}/m.txt",
    ]
    document = call("report", str(path), "--json", *words)
    document["left"] = [document["left"]]
    return document


@pytest.fixture
def reconcile_document(
    tmp_path: Path, write_ledger: WriteLedger, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Compare a sample of a ledger with a service that nobody serves."""
    path = write_ledger(tmp_path / "l.jsonl", {}, {}, env="sandbox", merchant_id="m")
    for name, value in {"MERCHANT_ID": "m", "KEY_ID": "k", "SHARED_SECRET": "c2VjcmV0"}.items():
        monkeypatch.setenv(f"BATCHCANCEL_{name}", value)
    words = ("--env", "sandbox", "--base-url", "http://127.0.0.1:9", "--max-outage", "0", "--sample", "50")
    document = call("reconcile", str(path), "--json", *words)
    document["sample"] = [document["sample"]]
    # Nothing was compared; what a kind is made of is pinned in test_reconcile.py.
    document["kinds"] = [dict.fromkeys(("mark", "ledger", "service", "note", "invoices"))]
    return document


@pytest.fixture
def verify_document(tmp_path: Path, write_ledger: WriteLedger) -> dict[str, Any]:
    """Audit a damaged ledger, and salvage it."""
    path = write_ledger(tmp_path / "l.jsonl", {}, {}, state=None)
    path.write_bytes(path.read_bytes().replace(b"2601", b"26x1"))
    (tmp_path / "m.txt").write_text("2600\n9\n", encoding="utf-8")
    words = ("--salvage", f"{tmp_path}/new.jsonl", "--manifest", f"{tmp_path}/m.txt")
    document = call("verify", str(path), "--json", *words)
    document["salvage"], document["manifest"] = [document["salvage"]], [document["manifest"]]
    return document


def test_keys_of_run_are_explained_in_their_order() -> None:
    """The reference is the interface."""
    assert named(section("json.md", "`run --json`")) == list(keys(run_document()))


def progress(*words: str) -> dict[str, Any]:
    """Run a command for its last word on how far it has come."""
    return last_of(CliRunner().invoke(group, [*words, "--progress", "json"], standalone_mode=False).stderr)


def last_of(said: str) -> dict[str, Any]:
    """Read the last object among the lines of standard error."""
    document: dict[str, Any] = json.loads([line for line in said.splitlines() if line[:1] == "{"][-1])
    assert document["ended"] is True
    return document


def test_keys_of_a_run_s_progress_are_explained_in_their_order(tmp_path: Path) -> None:
    """The reference is the interface; so are the causes of a pause, which are named in their row."""
    (tmp_path / "m.txt").write_text("1\n", encoding="utf-8")
    document = progress("run", f"{tmp_path}/m.txt", "--env", "sandbox", "--ledger", f"{tmp_path}/l.jsonl")
    text = section("json.md", "`run --progress json`")
    assert named(text) == list(document)
    assert list(document["outcomes"]) == list(Outcome)
    assert [cause for cause in PauseCause if f"`{cause}`" not in text] == []


def test_keys_of_a_plan_s_progress_are_explained_in_their_order(tmp_path: Path) -> None:
    """What is counted is named in its row."""
    (tmp_path / "m.txt").write_text("1\nPAID-1\nPARTIAL-1\nCANCELED-1\nMISSING-1\nb d\n", encoding="utf-8")
    document = progress("plan", f"{tmp_path}/m.txt", "--env", "sandbox", "--ledger", f"{tmp_path}/l.jsonl")
    text = section("json.md", "`plan --progress json`")
    assert named(text) == list(document)
    assert document["seen"] == {
        "cancelable": 1,
        "already_paid": 1,
        "partially_paid": 1,
        "already_canceled": 1,
        "error": 2,
    }
    assert (document["done"], document["total"]) == (6, 6)
    assert all(f"`{key}`" in text for key in document["seen"])


async def test_keys_of_a_reconciliation_s_progress_are_explained_in_their_order(
    tmp_path: Path, write_ledger: WriteLedger
) -> None:
    """What is counted is named in its row, with its mark."""
    rows = [{"invoice_id": f"{one}-1"} for one in ("CANCELED", "PAID", "MISSING")]
    path = write_ledger(
        tmp_path / "l.jsonl", *rows, {"invoice_id": "../1"}, env="sandbox", merchant_id=SANDBOX_MERCHANT_ID
    )
    key = {
        "BATCHCANCEL_MERCHANT_ID": SANDBOX_MERCHANT_ID,
        "BATCHCANCEL_KEY_ID": SANDBOX_KEY_ID,
        "BATCHCANCEL_SHARED_SECRET": SANDBOX_SECRET,
    }
    async with Sandbox(SandboxOptions()) as sandbox:
        words = ("reconcile", path, "--env", "sandbox", "--base-url", sandbox.base_url, "--progress", "json")
        command = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "batchcancel", *words, env=key, stdout=PIPE, stderr=PIPE
        )
        _, said = await command.communicate()
    document = last_of(said.decode())
    text = section("json.md", "`reconcile --progress json`")
    assert named(text) == list(document)
    assert document["marks"] == {"same": 1, "different": 1, "missing": 1, "unread": 1}
    assert (document["done"], document["total"]) == (4, 4)
    assert all(f"`{key}` (`{mark}`)" in text for key, mark in zip(document["marks"], "=*-!", strict=True))


def test_keys_of_a_list_s_progress_are_explained_in_their_order() -> None:
    """It has no total before its last page."""
    document = progress("list", "--env", "sandbox", "--status", "DRAFT")
    assert named(section("json.md", "`list --progress json`")) == list(document)
    assert document["read"] > 0


def test_keys_of_plan_are_explained_in_their_order(tmp_path: Path) -> None:
    """The reference is the interface; the parts of a status are named in its row."""
    (tmp_path / "m.txt").write_text("1\n", encoding="utf-8")
    document = call(
        "plan", f"{tmp_path}/m.txt", "--env", "sandbox", "--json", "--ledger", f"{tmp_path}/l.jsonl"
    )
    text = section("json.md", "`plan --json`")
    assert named(text) == list(document)
    assert list(document["statuses"]["SENT"]) == ["invoices", "open_amounts", "without_amount"]
    assert all(f"`{key}`" in text for key in document["statuses"]["SENT"])


def test_keys_of_reconcile_are_explained_in_their_order(reconcile_document: dict[str, Any]) -> None:
    """The reference is the interface."""
    assert named(section("json.md", "`reconcile --json`")) == list(keys(reconcile_document))


def test_columns_of_the_file_of_differences_are_explained_in_their_order() -> None:
    """With every mark and every note."""
    text = section("json.md", "The file of `reconcile --differences`")
    assert named(text) == list(DIFFERENCES)
    assert all(f"`{mark}` " in text for mark in Mark)
    assert all(f"`{note}`" in text for note in Note)


def test_keys_of_report_are_explained_in_their_order(report_document: dict[str, Any]) -> None:
    """The reference is the interface."""
    assert named(section("json.md", "`report --json`")) == list(keys(report_document))


def test_keys_of_verify_are_explained_in_their_order(verify_document: dict[str, Any]) -> None:
    """The reference is the interface."""
    assert named(section("json.md", "`verify --json`")) == list(keys(verify_document))


def test_keys_of_doctor_are_explained_in_their_order() -> None:
    """The reference is the interface."""
    document = call("doctor", "--env", "sandbox", "--live-check", "--json")
    document["live_check"] = [document["live_check"]]
    assert named(section("json.md", "`doctor --json`")) == list(keys(document))


def test_keys_of_the_simulator_s_log_are_explained_in_their_order() -> None:
    """Tests of other people's programs count its lines."""
    wire = WireRequest(method="GET", target="/", headers={}, body=b"")
    line = _log_line(0.0, wire, Operation.GET, None, Answer(http_status=None), 1)
    assert named(section("json.md", "`sandbox --log`")) == list(json.loads(line))


def test_columns_of_exports_are_explained_in_their_order() -> None:
    """CSV, XLSX and JSONL have the same."""
    assert named(section("json.md", "Exports of `report`")) == [*COLUMNS, "keep"]


# --- that these tests can fail --------------------------------------------------------------------


def test_a_page_that_says_something_else_is_found(
    hold_block: HoldBlock, request: pytest.FixtureRequest
) -> None:
    """Neither an old block passes nor one that is missing."""
    if request.config.getoption("--rewrite-docs"):
        pytest.skip("nothing is compared while the pages are written")
    with pytest.raises(AssertionError, match="--rewrite-docs"):
        hold_block("reference/options.md", "keys", "another text")
    with pytest.raises(AssertionError, match="has no block nothing"):
        hold_block("reference/options.md", "nothing", "")
