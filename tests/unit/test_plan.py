"""Plans: what a file may say, what a run takes from it, and what look-ups come to."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from batchcancel.errors import LedgerMismatchError
from batchcancel.job.planned import answer_of, is_fresh
from batchcancel.ledger import ManifestRecord
from batchcancel.ledger.plan import Plan, PlanRecord, encode_plan
from batchcancel.model import (
    ManifestRow,
    MatchField,
    Outcome,
    Reason,
    ResolvedBy,
    RunState,
    Sighting,
    Skip,
    SkipReason,
    Standing,
    Tally,
    utc_text,
)
from batchcancel.tasks.plan.file import PlanFile
from batchcancel.tasks.plan.survey import PlanSummary, Survey
from batchcancel.tasks.plan.text import plan_json, plan_text

BEGAN, LATER = "2026-03-01T10:00:00.000Z", "2026-03-01T12:00:00.000Z"
MATCH = {MatchField.TOTAL: "10.10", MatchField.CURRENCY: "usd", MatchField.DUE_DATE: "2026-01-31"}


def record(*, rows: int = 3, files: int = 1, started_at: str = BEGAN) -> PlanRecord:
    """Build the first line of a plan over so many files of so many rows."""
    return PlanRecord(
        run_id="r1",
        started_at=started_at,
        version="1",
        env="test",
        base_url="https://x",
        merchant_id="m",
        operator="o",
        host="h",
        pid=1,
        ref=None,
        manifest=tuple(ManifestRecord(path=f"f{n}", sha256=f"d{n}", rows=rows) for n in range(files)),
        options={},
    )


def sighting(row: int = 1, **changes: Any) -> Sighting:
    """Build what was seen of a paid invoice, whose number is its row's."""
    fields: dict[str, Any] = {
        "row": row,
        "invoice_id": f"A{row}",
        "reason": Reason.PAID,
        "invoice_status": "PAID",
        "amount": "10.10",
        "balance": "0.00",
        "currency": "USD",
        "due_date": "2026-01-31",
        "at": BEGAN,
        "latency_ms": 100.0,
    }
    return Sighting(**(fields | changes))


async def write(path: Path, *rows: Sighting | Skip, plan: PlanRecord | None = None) -> None:
    """Write a whole plan."""
    file = PlanFile(path, plan or record())
    for row in rows:
        await file.write(row)
    await file.end(state=RunState.COMPLETE, why=None, counts={})


def read(path: Path) -> Plan:
    """Read a plan and close its file, which is no longer needed but for ``find``."""
    return Plan.read(path)


# --- the file -------------------------------------------------------------------------------------


async def test_plan_knows_what_can_not_change_any_more(tmp_path: Path) -> None:
    """Paid and canceled invoices, by the number of their row; nothing else."""
    path = tmp_path / "plan.jsonl"
    canceled = sighting(2, reason=Reason.ALREADY_CANCELED, invoice_status="CANCELED", file="f1")
    await write(
        path,
        sighting(3, file="f0"),
        sighting(1, reason=None, invoice_status="SENT", file="f0"),
        sighting(2, reason=Reason.PARTIAL, invoice_status="PARTIAL", file="f0"),
        Skip(row=1, file="f1", invoice_id="A1", why=SkipReason.DUPLICATE, of_row=1, of_file="f0"),
        canceled,
        plan=record(files=2),
    )
    plan = read(path)
    found = [plan.find(number) for number in range(6)]
    assert [None if one is None else one.invoice_id for one in found] == [None, None, "A3", None, "A2", None]
    assert plan.answers == 2
    assert plan.record == record(files=2)
    plan.close()


async def test_a_plan_of_many_rows_is_whole(tmp_path: Path) -> None:
    """More rows than are written at once, none lost."""
    path = tmp_path / "plan.jsonl"
    await write(path, *(sighting(n) for n in range(1, 2001)), plan=record(rows=2000))
    plan = read(path)
    assert all((one := plan.find(n)) is not None and one.row == n + 1 for n in range(2000))
    plan.close()


def sealed(line: str) -> str:
    """Seal a line anew, as somebody would who wants to be believed."""
    body = line.rpartition(',"crc"')[0]
    return f'{body},"crc":"{zlib.crc32(body.encode()):08x}"}}'


_Spoil = Callable[[list[str]], list[str]]


def altered(number: int, old: str, new: str, *, is_sealed: bool = True) -> _Spoil:
    """Return what puts another text into a line, which is sealed anew unless told otherwise."""

    def spoil(lines: list[str]) -> list[str]:
        line = lines[number].replace(old, new, 1)
        return [*lines[:number], sealed(line) if is_sealed else line, *lines[number + 1 :]]

    return spoil


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        pytest.param(lambda _: [], "is no plan", id="empty"),
        pytest.param(lambda lines: ["hello", *lines], "is no plan", id="another file"),
        pytest.param(lambda lines: lines[1:], "is no plan", id="no beginning"),
        pytest.param(altered(0, '"plan"', '"run"'), "is no plan", id="ledger"),
        pytest.param(lambda lines: lines[:-1], "it has no end", id="no end"),
        pytest.param(lambda all_: [all_[0], *all_[2:]], "taken out or moved", id="line taken out"),
        pytest.param(lambda all_: [all_[n] for n in (0, 2, 1, 3)], "taken out or moved", id="lines swapped"),
        pytest.param(altered(1, "PAID", "SENT", is_sealed=False), "line 2 is damaged", id="line altered"),
        pytest.param(altered(1, "PAID", "SENT"), "taken out or moved", id="line forged"),
        pytest.param(lambda lines: [*lines, lines[1]], "out of its place", id="line after the end"),
        pytest.param(lambda lines: [lines[0], *lines], "out of its place", id="two beginnings"),
        pytest.param(altered(1, '"row":1', '"row":9'), "does not have", id="row beyond"),
        pytest.param(altered(1, '"row":1', '"row":-3'), "does not have", id="row before"),
        pytest.param(altered(0, '"v":1', '"v":2'), "newer version", id="newer"),
        pytest.param(altered(0, BEGAN, "yesterday"), "its first line has no time", id="no beginning's time"),
        pytest.param(altered(1, BEGAN, "2026-03-01T10:00:00"), "line 2 has no time", id="no row's time"),
    ],
)
async def test_what_is_no_whole_plan_is_refused(tmp_path: Path, spoil: _Spoil, why: str) -> None:
    """A run takes nothing from a file that is not exactly what a plan wrote."""
    path = tmp_path / "plan.jsonl"
    await write(path, sighting(1), sighting(2))
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in spoil(lines)))
    with pytest.raises(LedgerMismatchError, match=why):
        read(path)


async def test_every_cut_plan_is_refused(tmp_path: Path) -> None:
    """Wherever it breaks off."""
    path = tmp_path / "plan.jsonl"
    await write(path, sighting(1))
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(LedgerMismatchError):
            read(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """As a plan, not as a ledger."""
    with pytest.raises(LedgerMismatchError, match=r"^The plan .*nothing can't be opened"):
        read(tmp_path / "nothing")


async def test_a_plan_that_changes_is_noticed(tmp_path: Path) -> None:
    """Not taken for what it was when it was checked."""
    path = tmp_path / "plan.jsonl"
    await write(path, sighting(1))
    plan = read(path)
    path.write_bytes(path.read_bytes().replace(b"A1", b"A9"))
    with pytest.raises(LedgerMismatchError, match="changed while it was read"):
        plan.find(0)
    plan.close()


async def test_an_unfinished_plan_leaves_nothing(tmp_path: Path) -> None:
    """The file has its name only once it is whole."""
    file = PlanFile(tmp_path / "plan.jsonl", record())
    await file.write(sighting(1))
    assert not (tmp_path / "plan.jsonl").exists()
    file.discard()
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - a Path would block, says ruff


def test_the_first_line_is_pinned() -> None:
    """A ledger's run line, but for its type."""
    line = json.loads(encode_plan(record(rows=1)))
    assert list(line) == [
        "type",
        "v",
        "run_id",
        "started_at",
        "version",
        "env",
        "base_url",
        "merchant_id",
        "operator",
        "host",
        "pid",
        "ref",
        "manifest",
        "options",
        "crc",
    ]
    assert line["type"] == "plan"


async def test_the_lines_of_rows_are_pinned(tmp_path: Path) -> None:
    """Whoever reads plans may rely on these fields."""
    path = tmp_path / "plan.jsonl"
    await write(path, sighting(1))
    line = json.loads(path.read_text().splitlines()[1])
    assert list(line) == [
        "type",
        "run_id",
        "row",
        "invoice_id",
        "reason",
        "invoice_status",
        "http_status",
        "lookups",
        "amount",
        "balance",
        "currency",
        "due_date",
        "created_at",
        "correlation_id",
        "submitted_at",
        "at",
        "latency_ms",
        "message",
        "crc",
    ]


# --- what a run takes -----------------------------------------------------------------------------


def taken(row: ManifestRow, found: Sighting, ledger_began_at: str | None = None) -> Reason | None:
    """Return the reason that a run takes from a plan."""
    answer = answer_of(found, row, ledger_began_at=ledger_began_at)
    return None if answer is None else answer.reason


CANCELED = {"reason": Reason.ALREADY_CANCELED, "invoice_status": "CANCELED"}
ROW = ManifestRow(row=1, invoice_id="A1")


@pytest.mark.parametrize(
    ("row", "found", "began", "reason"),
    [
        pytest.param({}, {}, None, Reason.PAID, id="paid"),
        pytest.param({}, CANCELED, None, Reason.ALREADY_CANCELED, id="canceled"),
        pytest.param({}, {"reason": None}, None, None, id="open"),
        pytest.param({}, {"invoice_id": "A2"}, None, None, id="another invoice"),
        pytest.param({"merchant_id": "x"}, {}, None, None, id="another merchant"),
        pytest.param({"merchant_id": "x"}, {"merchant_id": "x"}, None, Reason.PAID, id="the same merchant"),
        pytest.param({"standing": Standing.TO_LOOK_UP}, {}, None, None, id="in doubt"),
        pytest.param({"standing": Standing.EXCLUDED}, {}, None, None, id="excluded"),
        pytest.param({"standing": Standing.HELD_BACK}, {}, None, None, id="held back"),
        pytest.param({"standing": Standing.SETTLED}, {}, None, None, id="settled"),
        pytest.param({"duplicate_of": 1}, {}, None, None, id="duplicate"),
        pytest.param({"valid": False}, {}, None, None, id="invalid"),
        pytest.param({}, {}, LATER, Reason.PAID, id="paid, with a ledger"),
        pytest.param({}, CANCELED, LATER, Reason.ALREADY_CANCELED, id="canceled before the ledger"),
        pytest.param({}, CANCELED | {"at": LATER}, BEGAN, None, id="canceled, perhaps by this ledger"),
        pytest.param({}, CANCELED | {"at": BEGAN}, BEGAN, None, id="canceled, at the same time"),
        pytest.param({"match": MATCH}, {}, None, Reason.PAID, id="matches"),
        pytest.param({"match": MATCH}, {"amount": "10.11"}, None, None, id="another amount"),
        pytest.param({"match": MATCH}, {"currency": None}, None, None, id="no currency"),
        pytest.param({"match": MATCH}, {"due_date": "2026-02-01"}, None, None, id="another date"),
    ],
)
def test_only_what_is_certain_is_taken(
    row: dict[str, Any], found: dict[str, Any], began: str | None, reason: Reason | None
) -> None:
    """Whatever could be otherwise by now is asked."""
    fields: dict[str, Any] = {"row": 1, "invoice_id": "A1"}
    manifest_row = ManifestRow(**(fields | row))
    assert taken(manifest_row, sighting(1, **found), began) is reason


def test_a_row_from_a_plan_says_so() -> None:
    """It has the plan's time, and no request of this run."""
    result = answer_of(
        sighting(1), ManifestRow(row=1, invoice_id="A1", keep={"name": "x"}), ledger_began_at=None
    )
    assert result is not None
    assert (result.outcome, result.resolved_by, result.at) == (Outcome.ALREADY_PAID, ResolvedBy.PLAN, BEGAN)
    assert (result.attempts, result.lookups, result.keep) == (0, 0, {"name": "x"})


def test_age_counts_from_the_plans_beginning() -> None:
    """A plan from the future is none to rely on either."""
    assert is_fresh(record(started_at=utc_text()), max_age_s=10)
    assert not is_fresh(record(started_at=BEGAN), max_age_s=10)
    assert not is_fresh(record(started_at="2126-01-01T00:00:00.000Z"), max_age_s=10)


# --- the summary ----------------------------------------------------------------------------------


def surveyed(*sightings: Sighting) -> Survey:
    """Take some sightings in."""
    survey = Survey()
    for one in sightings:
        survey.add(one)
    return survey


OPEN = {"reason": None, "invoice_status": "SENT", "balance": "5.05"}


def test_open_amounts_are_what_is_owed() -> None:
    """The balance, or the total where no balance is said; nothing of paid and canceled invoices."""
    survey = surveyed(
        sighting(1, **OPEN),
        sighting(2, **(OPEN | {"balance": None})),
        sighting(3, **(OPEN | {"currency": "EUR"})),
        sighting(4, **(OPEN | {"balance": None, "amount": None})),
        sighting(5),
        sighting(6, **CANCELED, balance="10.10"),
        sighting(7, reason=Reason.NOT_FOUND, invoice_status=None),
    )
    sent = survey.statuses["SENT"]
    assert {code: str(total) for code, total in sent.open_amounts.items()} == {"USD": "15.15", "EUR": "5.05"}
    assert (sent.invoices, sent.without_amount) == (4, 1)
    assert list(survey.statuses) == ["SENT", "PAID", "CANCELED"]
    assert not survey.statuses["PAID"].open_amounts
    assert not survey.statuses["CANCELED"].open_amounts


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        pytest.param({"rate": 2.0}, 2.5, id="rate"),  # one POST, and two each for paid and canceled
        pytest.param({"rate": 2.0, "takes_plan": True}, 0.5, id="with the plan"),
        pytest.param({"rate": 2.0, "matches": True}, 2.0, id="looked up first"),
        pytest.param({"rate": None}, 0.25, id="latency"),
        pytest.param({"rate": None, "looked_for_s": 6.0}, 10.0, id="slow look-ups"),
        pytest.param({"rate": 2.0, "looked_for_s": 1.6}, 2.5, id="hardly slower"),
        pytest.param({"rate": None, "looked_for_s": 0.9}, 0.25, id="too few to tell"),
    ],
)
def test_estimate_counts_the_requests_of_a_run(options: dict[str, Any], seconds: float) -> None:
    """By the rate, or by the replies' time where that is longer, or by how the look-ups went."""
    survey = surveyed(sighting(1, **OPEN), sighting(2), sighting(3, **CANCELED))
    given: dict[str, Any] = {"concurrency": 2, "matches": False, "takes_plan": False, "looked_for_s": 0.1}
    assert survey.estimate(**(given | options))[0] == pytest.approx(seconds)


def test_an_estimate_says_how_long_pending_invoices_are_waited_for() -> None:
    """That time is no request's."""
    pending = {"reason": Reason.PENDING, "invoice_status": "PENDING"}
    survey = surveyed(sighting(1, **OPEN), sighting(2, **pending), sighting(3, **pending))
    _, why = survey.estimate(rate=2.0, concurrency=2, matches=False, takes_plan=False, looked_for_s=0.1)
    assert why == "about 5 requests at 2 a second; up to 12 s for 2 pending"


def summary(**changes: Any) -> PlanSummary:
    """Build a plan's summary."""
    survey = surveyed(
        sighting(1, **OPEN), sighting(2), sighting(3, reason=Reason.INVALID_ID, invoice_status=None)
    )
    fields: dict[str, Any] = {
        "env": "test",
        "host": "h",
        "merchant_id": "merchant_one",
        "state": RunState.COMPLETE,
        "why": None,
        "as_asked": False,
        "tally": Tally(rows=4, results={Reason.PAID: 1, Reason.INVALID_ID: 1}, cancelable=1, duplicates=1),
        "statuses": survey.statuses,
        "refused": {reason: tuple(examples) for reason, examples in survey.refused.items()},
        "estimate_s": 2.0,
        "estimate_by": "about 4 requests at 2 a second",
        "duration_s": 1.0,
        "out": "plan.jsonl",
    }
    return PlanSummary(**(fields | changes))


def test_the_table_says_what_a_run_would_do() -> None:
    """By status with what is owed, and who would not be canceled."""
    assert plan_text(summary()) == (
        "A run would cancel 1 of 3 invoices. Nothing was changed.\n"
        "\n"
        "  status  invoices  currency  open amount\n"
        "  ------  --------  --------  -----------\n"
        "  SENT           1  USD              5.05\n"
        "  PAID           1\n"
        "\n"
        "  not canceled  invoices                such as\n"
        "  ------------  --------                ----------\n"
        "  paid                 1  already paid  A2 (row 2)\n"
        "  invalid_id           1  an error      A3 (row 3)\n"
        "\n"
        "  duplicate rows   1\n"
        "  rows             4\n"
        "\n"
        "  a run  takes about 2.0 s: about 4 requests at 2 a second\n"
        "  plan   plan.jsonl; 'run --plan' takes what is paid or canceled from it\n"
    )


def test_hostile_ids_move_no_cursor() -> None:
    """An id that is none may be any text."""
    survey = surveyed(sighting(1, reason=Reason.INVALID_ID, invoice_status=None, invoice_id="\x1b[2J\u202e"))
    text = plan_text(summary(refused={Reason.INVALID_ID: tuple(survey.refused[Reason.INVALID_ID])}))
    assert text.isascii()
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"state": RunState.STOPPED, "why": "No."}, "  Stopped: No. 2 rows not looked at."),
        ({"state": RunState.INTERRUPTED, "why": "SIGINT"}, "  Interrupted (SIGINT): 2 rows not looked at."),
    ],
    ids=["stopped", "interrupted"],
)
def test_a_plan_that_is_not_whole_says_so(changes: dict[str, Any], line: str) -> None:
    """How many rows nobody looked at, and why."""
    assert line in plan_text(summary(**changes, tally=Tally(rows=2, open=2))).splitlines()


def test_the_json_keys_are_pinned() -> None:
    """Programs may rely on them."""
    document = json.loads(plan_json(summary(), exit_code=3))
    assert list(document) == [
        "env",
        "host",
        "merchant_id",
        "state",
        "why",
        "rows",
        "cancelable",
        "statuses",
        "refused",
        "settled_earlier",
        "duplicates",
        "excluded",
        "open",
        "estimate_s",
        "duration_s",
        "out",
        "exit_code",
    ]
    assert document["statuses"]["SENT"] == {
        "invoices": 1,
        "open_amounts": {"USD": "5.05"},
        "without_amount": 0,
    }
    assert document["refused"] == {"paid": 1, "invalid_id": 1}


def test_unset_is_no_file() -> None:
    """A row of a lone manifest names no file."""
    assert sighting(1).file is UNSET


def test_an_estimate_of_a_part_says_so() -> None:
    """A plan that was stopped knows nothing of the rows that it has not looked at."""
    assert "a run over these  takes about 2.0 s" in plan_text(summary(tally=Tally(rows=9, open=5)))


def test_a_long_estimate_keeps_within_the_width() -> None:
    """As all other lines do."""
    slow = "about 3,000,000 requests, at the 77.3 a second of these look-ups; up to 12 s for 61 pending"
    text = plan_text(summary(estimate_by=slow))
    assert max(map(len, text.splitlines())) <= 100
    assert " ".join(text.split()).count(slow) == 1
