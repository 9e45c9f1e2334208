"""The way of an invoice through the house: who may import whom, and what help may cost."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

import batchcancel

PACKAGE: Final = Path(batchcancel.__file__).parent
PROJECT: Final = Path(__file__).parents[2] / "pyproject.toml"
ROOT: Final = "__init__"
"""The package's own front, which gives out public names when they are first used."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a top-level module or package may import."""

    of_package: frozenset[str]
    """Other parts; a submodule (``ledger.reader``) where only that one is allowed."""
    third_party: frozenset[str]


def part(of_package: str = "", third_party: str = "") -> Part:
    """Write a row of the table."""
    return Part(frozenset(of_package.split()), frozenset(third_party.split()))


_PIPELINE: Final = "errors model settings manifest api verdict retry pace ledger gates pipeline"

# The design's table. msgspec also stands where a part only declares data with it, and yarl is
# aiohttp's own type for addresses.
TABLE: Final[Mapping[str, Part]] = {
    "errors": part(),
    "model": part("", "msgspec"),
    "settings": part("errors", "msgspec"),
    "buckets": part(),
    "manifest": part("errors model buckets", "aiofiles msgspec"),
    "api": part("errors model", "aiohttp yarl msgspec cryptography joserfc"),
    "verdict": part("errors model", "msgspec"),
    "retry": part("errors model verdict", "tenacity msgspec"),
    "pace": part("errors model"),
    "ledger": part("errors model buckets", "msgspec"),
    "gates": part("errors model", "msgspec"),
    "pipeline": part("errors model verdict retry pace gates", "msgspec"),
    # The simulator stands below job in the table, but ``--env sandbox`` runs it inside the process.
    "job": part(f"{_PIPELINE} sandbox", "msgspec"),
    "report": part("errors model buckets ledger.reader", "msgspec jinja2 markupsafe pygal xlsxwriter"),
    "tasks": part(f"{_PIPELINE} buckets job report", "msgspec"),
    "observe": part("errors model", "msgspec structlog rich prometheus_client aiohttp yarl"),
    "sandbox": part("", "aiohttp cryptography"),
    "cluster": part(f"{_PIPELINE} job", "msgspec temporalio"),
    "cli": part(f"{_PIPELINE} job report tasks observe sandbox cluster", "click msgspec uvloop"),
    ROOT: part("errors model job settings"),
    # ``python -m batchcancel``: another door to the command, with nothing of its own.
    "__main__": part("cli"),
}
COMES_WITH_AIOHTTP: Final = frozenset({"yarl", "multidict"})
"""What aiohttp's own interface is made of: it can't be installed without them."""
OF_EXTRA: Final = {
    "report": ("report.charts", "report.page", "report.xlsx"),
    "cluster": (
        "cli.asking",
        "cli.detached",
        "cli.following",
        "cli.shift",
        *(
            f"cluster.{name}"
            for name in (
                "access",
                "connection",
                "contact",
                "converter",
                "following",
                "orders",
                "running",
                "submission",
                "takeover",
                "worker",
                "workflow",
            )
        ),
    ),
}
"""By extra, which has the name of its part: the modules and packages that need its libraries."""
COMES_WITH_EXTRA: Final[Mapping[str, frozenset[str]]] = {
    "report": frozenset({"markupsafe"}),
    "cluster": frozenset(),
}
"""What an extra's libraries can't be installed without."""
STANDARD: Final = sys.stdlib_module_names | {"_typeshed"}
"""The standard library, and the names that type checkers have for it."""
MAY_IMPORT_BY_NAME: Final = frozenset({"cli", ROOT})
"""Parts that import modules when they are first used; each takes the names from a table of its own."""


@dataclass(frozen=True, slots=True)
class Arrow:
    """One import: from a module to a dotted name."""

    module: str
    """Dotted, without the package's name: ``ledger.writer``; the front is ``__init__``."""
    line: int
    target: str

    @property
    def start(self) -> str:
        """The part that imports."""
        return self.module.partition(".")[0]

    @property
    def end(self) -> str | None:
        """What is imported of the package, dotted and without its name; None if it is not of it."""
        package, _, rest = self.target.partition(".")
        if package != "batchcancel":
            return None
        return rest or ROOT


def arrows_of(module: str, source: str) -> Iterator[Arrow]:
    """Read every import of a module, those inside functions and under TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                for name in names:
                    yield Arrow(module, node.lineno, name.name)
            case ast.ImportFrom(module=str(origin), level=0, names=names):
                for name in names:
                    yield Arrow(module, node.lineno, _imported(origin, name.name))
            case ast.ImportFrom():
                yield Arrow(module, node.lineno, "." * node.level)


def _imported(origin: str, name: str) -> str:
    """Tell ``from batchcancel import job`` (a module) from ``from batchcancel import Job``."""
    path = PACKAGE.parent.joinpath(*origin.split("."), name)
    is_module = origin.startswith("batchcancel") and (path.is_dir() or path.with_suffix(".py").is_file())
    return f"{origin}.{name}" if is_module or origin == "importlib" else origin


def fault_of(arrow: Arrow) -> str | None:
    """Say what is wrong with an import; None if nothing is."""
    where = f"{arrow.module}, line {arrow.line}"
    allowed = TABLE.get(arrow.start)
    if allowed is None:
        return f"{where}: {arrow.start} is not in the table"
    if arrow.target.startswith("."):
        return f"{where}: a relative import"
    if arrow.target == "importlib.import_module" and arrow.start not in MAY_IMPORT_BY_NAME:
        return f"{where}: an import by name, which nobody can read"
    if arrow.end is None:
        top = arrow.target.partition(".")[0]
        is_allowed = top in STANDARD or top in allowed.third_party
    else:
        end = arrow.end.partition(".")[0]
        is_allowed = end == arrow.start or end in allowed.of_package or arrow.end in allowed.of_package
    return None if is_allowed else f"{where}: {arrow.start} may not import {arrow.target}"


def modules() -> dict[str, str]:
    """Return every module of the package: its dotted name and its source."""
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        names = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if names[-1] == "__init__" and len(names) > 1:
            names.pop()
        found[".".join(names)] = path.read_text(encoding="utf-8")
    return found


def all_arrows() -> list[Arrow]:
    """Return every import of the package."""
    return [arrow for module, source in modules().items() for arrow in arrows_of(module, source)]


# --- the package ----------------------------------------------------------------------------------


def test_every_import_is_an_arrow_of_the_table() -> None:
    """A new arrow needs a decision: it is a change of the design."""
    assert [fault for arrow in all_arrows() if (fault := fault_of(arrow))] == []


def test_every_part_is_in_the_table() -> None:
    """A new top-level module or package needs a row, even if it imports nothing."""
    parts = {module.partition(".")[0] for module in modules()}
    assert parts <= set(TABLE)
    assert {name for name in TABLE if name not in parts} == set(), "rows without a part"


def runtime_dependencies() -> set[str]:
    """Return what is installed with the package, without extras; each is imported by its own name."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return _names(project["dependencies"])


def extra_dependencies(extra: str) -> set[str]:
    """Return what an extra installs besides; nothing if there is no such extra."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return _names(project["optional-dependencies"].get(extra, ()))


def _names(requirements: Iterable[str]) -> set[str]:
    return {re.split(r"[^\w-]", line, maxsplit=1)[0].replace("-", "_").lower() for line in requirements}


def test_the_table_allows_only_libraries_that_users_have() -> None:
    """A library of the tests is missing after an installation: a run would fail on it."""
    installed = runtime_dependencies() | COMES_WITH_AIOHTTP
    missing = {
        name: row.third_party - installed - extra_dependencies(name) - COMES_WITH_EXTRA.get(name, frozenset())
        for name, row in TABLE.items()
        if name != "test"
    }
    assert {name: libraries for name, libraries in missing.items() if libraries} == {}


@pytest.mark.parametrize("extra", OF_EXTRA)
def test_an_extra_s_libraries_are_loaded_by_those_who_ask_for_them(extra: str) -> None:
    """Its modules alone import them, and others import these modules in functions only."""
    libraries = extra_dependencies(extra) | COMES_WITH_EXTRA[extra]
    inside = {module for module in modules() if _is_within(module, OF_EXTRA[extra])}
    assert {arrow.module for arrow in all_arrows() if arrow.target.split(".")[0] in libraries} <= inside
    for module, source in modules().items():
        body = ast.Module([one for one in ast.parse(source).body if not _is_for_later(one)], [])
        at_once = {arrow.end for arrow in arrows_of(module, ast.unparse(body)) if arrow.end}
        needed = {end for end in at_once if _is_within(end, OF_EXTRA[extra])}
        assert module in inside or not needed, module


def _is_for_later(statement: ast.stmt) -> bool:
    """Tell whether an import in there is none at once: in a function, or for type checkers only."""
    if isinstance(statement, ast.If):
        return ast.unparse(statement.test) == "TYPE_CHECKING"
    return isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)


def _is_within(name: str, packages: Iterable[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in packages)


def test_the_table_allows_no_library_that_its_part_does_not_need() -> None:
    """A right that nobody uses is an arrow that can be drawn without a decision."""
    used: dict[str, set[str]] = {name: set() for name in TABLE}
    for arrow in all_arrows():
        if arrow.end is None:
            used[arrow.start].add(arrow.target.partition(".")[0])
    assert {
        name: row.third_party - used[name] for name, row in TABLE.items() if row.third_party - used[name]
    } == {}


def test_every_dependency_is_needed() -> None:
    """What nothing imports is only weight, and one more thing that can have a hole."""
    assert (
        runtime_dependencies() - {library for row in TABLE.values() for library in row.third_party} == set()
    )
    for extra in OF_EXTRA:
        assert extra_dependencies(extra) <= TABLE[extra].third_party


@pytest.mark.parametrize(
    ("library", "module"),
    [("aiohttp", "observe.notify"), ("prometheus_client", "observe.metrics.exposition")],
)
def test_one_module_of_observe_uses_a_library(library: str, module: str) -> None:
    """What it is replaced by one day is that module's own affair; nobody else there calls over the wire."""
    of_observe = {arrow for arrow in all_arrows() if arrow.start == "observe"}
    assert {arrow.module for arrow in of_observe if arrow.target.split(".")[0] == library} == {module}


def test_there_is_no_circle_between_parts() -> None:
    """Lower parts import higher ones, never the reverse: this order exists."""
    graph: dict[str, set[str]] = {}
    for arrow in all_arrows():
        end = (arrow.end or arrow.start).partition(".")[0]
        if end != arrow.start:
            graph.setdefault(arrow.start, set()).add(end)
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("errors") < order.index("job") < order.index("cli")


def test_the_table_itself_has_no_circle() -> None:
    """No row allows what another one makes a circle of."""
    TopologicalSorter(
        {name: {one.partition(".")[0] for one in row.of_package} for name, row in TABLE.items()}
    ).prepare()


def test_the_simulator_imports_nothing_of_the_package() -> None:
    """What checks the client's requests must not share its mistakes."""
    ends = {arrow.end for arrow in all_arrows() if arrow.start == "sandbox" and arrow.end}
    assert {end.partition(".")[0] for end in ends} == {"sandbox"}


def test_no_module_is_a_drawer_for_everything() -> None:
    """A name has to say what belongs there."""
    drawers = {"util", "utils", "helper", "helpers", "common", "misc"}
    assert [name for name in modules() if drawers & set(name.split("."))] == []


# --- that these tests can fail --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        pytest.param("pace.gate", "import aiohttp", "pace may not import aiohttp", id="third party"),
        pytest.param("model", "import yarl.x as y", "model may not import yarl.x", id="third party, dotted"),
        pytest.param(
            "errors",
            "from batchcancel.model import Reply",
            "errors may not import batchcancel.model",
            id="upwards",
        ),
        pytest.param(
            "verdict",
            "def judge():\n    from batchcancel.api.client import Client",
            "verdict may not import batchcancel.api.client",
            id="inside a function",
        ),
        pytest.param(
            "gates",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import batchcancel.settings",
            "gates may not import batchcancel.settings",
            id="under TYPE_CHECKING",
        ),
        pytest.param(
            "report.page",
            "from batchcancel.ledger.writer import Ledger",
            "report may not import batchcancel.ledger.writer",
            id="another submodule",
        ),
        pytest.param(
            "report.page",
            "from batchcancel.job import Job",
            "report may not import batchcancel.job",
            id="report to job",
        ),
        pytest.param(
            "sandbox.bodies",
            "from batchcancel import model",
            "sandbox may not import batchcancel.model",
            id="a module from the front",
        ),
        pytest.param(
            "pipeline",
            "from batchcancel import Job",
            "pipeline may not import batchcancel",
            id="a name from the front",
        ),
        pytest.param(
            "api.signing", "import hypothesis.core", "api may not import hypothesis.core", id="of the tests"
        ),
        pytest.param(
            "ledger.disk", "import aiofiles", "ledger may not import aiofiles", id="of another part"
        ),
        pytest.param(
            "__main__",
            "from batchcancel.job import Job",
            "__main__ may not import batchcancel.job",
            id="round the command",
        ),
        pytest.param("ledger.reader", "from .writer import Ledger", "a relative import", id="relative"),
        pytest.param(
            "retry", "from importlib import import_module", "an import by name", id="import by name"
        ),
        pytest.param("billing", "import json", "billing is not in the table", id="a part without a row"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str, fault: str) -> None:
    """Each way to write it."""
    found = [said for arrow in arrows_of(module, source) if (said := fault_of(arrow))]
    assert len(found) == 1
    assert fault in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("report.summary", "from batchcancel.ledger.reader import History"),
        ("ledger.writer", "from batchcancel.ledger.disk import Disk\nimport msgspec.json"),
        ("cli.run", "from importlib import import_module\nfrom batchcancel import job"),
        ("pace.lane", "import asyncio, collections.abc"),
        ("job.account", "from batchcancel.job.job import Job\nfrom batchcancel.ledger import RunRecord"),
        ("__main__", "from batchcancel.cli import main"),
    ],
    ids=["a submodule", "its own part", "cli", "standard library", "a part that is a package", "main"],
)
def test_an_allowed_import_passes(module: str, source: str) -> None:
    """The reader does not cry wolf."""
    assert [fault_of(arrow) for arrow in arrows_of(module, source)].count(None) >= 1
    assert all(fault_of(arrow) is None for arrow in arrows_of(module, source))


def test_a_circle_is_found() -> None:
    """The sorter that is used above raises."""
    with pytest.raises(CycleError):
        TopologicalSorter({"pace": {"ledger"}, "ledger": {"pace"}}).prepare()


# --- what help may cost ---------------------------------------------------------------------------

CALL: Final = "import sys; from batchcancel.cli import main; main(sys.argv[1:])"
LOADED: Final = (
    "import json, sys\n"
    "try:\n"
    "    if sys.argv[1:]:\n"
    "        from batchcancel.cli import main\n"
    "        main(sys.argv[1:])\n"
    "    else:\n"
    "        import batchcancel\n"
    "finally:\n"
    "    json.dump(sorted(sys.modules), sys.stderr)\n"
)


def run_python(code: str, *arguments: str) -> tuple[str, float]:
    """Run a fresh interpreter; return its standard error and the CPU seconds that it used."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stderr is not None
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, said
    return said, usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(
    ("arguments", "most_s"),
    [
        (("--help",), 0.3),
        (("--version",), 0.3),
        (("list", "--help"), 0.6),
        (("plan", "--help"), 0.6),
        (("run", "--help"), 0.6),
        (("config", "--help"), 0.6),
        (("sandbox", "--help"), 0.6),
        (("verify", "--help"), 0.6),
        (("reconcile", "--help"), 0.6),
        (("report", "--help"), 0.6),
        (("doctor", "--help"), 0.6),
        (("submit", "--help"), 0.6),
        (("worker", "--help"), 0.6),
        (("status", "--help"), 0.6),
        (("completion", "--help"), 0.6),
    ],
    ids=[
        "all",
        "version",
        "list",
        "plan",
        "run",
        "config",
        "sandbox",
        "verify",
        "reconcile",
        "report",
        "doctor",
        "submit",
        "worker",
        "status",
        "completion",
    ],
)
def test_help_answers_within_its_budget(arguments: tuple[str, ...], most_s: float) -> None:
    """CPU time of the whole process; the best of three, for other work makes it slower, never faster."""
    assert min(run_python(CALL, *arguments)[1] for _ in range(3)) < most_s


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--help",),
        ("list", "--help"),
        ("plan", "--help"),
        ("run", "--help"),
        ("config", "--help"),
        ("sandbox", "--help"),
        ("verify", "--help"),
        ("reconcile", "--help"),
        ("report", "--help"),
        ("doctor", "--help"),
        ("submit", "--help"),
        ("worker", "--help"),
        ("status", "--help"),
        ("completion", "--help"),
        ("completion", "bash"),
        ("--version",),
    ],
    ids=lambda words: " ".join(words) or "import batchcancel",
)
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    """The libraries of a run are imported by a run, those of a report by a report."""
    loaded = {name.partition(".")[0] for name in json.loads(run_python(LOADED, *arguments)[0])}
    assert "batchcancel" in loaded
    of_a_run = {"aiohttp", "structlog", "rich", "tenacity", "aiofiles", "asyncio", "cryptography", "uvloop"}
    of_a_run |= {"prometheus_client", "temporalio", "google"}
    assert loaded & (of_a_run | {"jinja2", "pygal", "xlsxwriter"}) == set()


def test_a_run_on_one_machine_loads_nothing_of_many_hosts(tmp_path: Path) -> None:
    """Whoever needs no server installs nothing for it."""
    manifest = tmp_path / "ids.csv"
    manifest.write_text("invoice_id\n2675\n", encoding="utf-8")
    flags = ("--env", "sandbox", "--ledger", str(tmp_path / "ledger.jsonl"), "--progress", "none")
    said = run_python(LOADED, "run", str(manifest), *flags)[0]
    loaded = json.loads(said[said.index("[") :])
    assert "batchcancel.job.job" in loaded
    assert [name for name in loaded if name.startswith(("temporalio", "batchcancel.cluster"))] == []


# --- the other door -------------------------------------------------------------------------------


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m batchcancel``; -P keeps the working directory from standing in for the package."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "batchcancel", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_package_can_be_run_as_a_module() -> None:
    """Where the script is not on the path, the same help comes, under the command's own name."""
    done = run_module("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: batchcancel [OPTIONS] COMMAND [ARGS]...")
    script = subprocess.run(
        [sys.executable, "-P", "-c", CALL, "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == script.stdout


def test_the_module_ends_with_the_command_s_exit_code() -> None:
    """Cron reads the code, not the text."""
    done = run_module("run", "--no-such-option")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no-such-option" in done.stderr


# --- the front ------------------------------------------------------------------------------------


def test_importing_the_package_loads_none_of_its_parts() -> None:
    """Its public names come when they are first used."""
    loaded = json.loads(run_python(LOADED)[0])
    assert [name for name in loaded if name.startswith(("batchcancel.", "msgspec"))] == []


def test_every_public_name_is_there() -> None:
    """What is announced can be had, and nothing else."""
    for name in batchcancel.__all__:
        assert getattr(batchcancel, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Jobs'"):
        _ = batchcancel.Jobs
