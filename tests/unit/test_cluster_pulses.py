"""What workers say between two shards, put together, and how that reads to who follows a job."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from batchcancel.cli.job_words import exit_code_of, json_line, sentence
from batchcancel.cli.watching import count_outcomes
from batchcancel.cluster.messages import Ended, Memo, Progress, Pulse, Score
from batchcancel.cluster.pulses import Pulses
from batchcancel.cluster.shares import Shares
from batchcancel.model import Outcome, PauseCause, Vitals, Workers
from batchcancel.observe.tracker import Moment
from batchcancel.observe.view import view

SCORE = Score(to_settle=100, outcomes={"canceled": 20, "error": 1}, duration_s=2.0, out=(3, 4, 5))
DONE = Score(to_settle=100, outcomes={"canceled": 100})


def pulse(shard: int, **changes: Any) -> Pulse:
    """Say how a shard goes on that has canceled three invoices and found one paid."""
    usual = Pulse(
        shard=shard,
        outcomes={"canceled": 3, "already_paid": 1},
        amounts_canceled={"EUR": "1.50"},
        in_flight=2,
        allowed_rate=None,
        set_rate=None,
        held_by=None,
        host="a",
        worker="a, process 1",
    )
    return replace(usual, **changes)


def together(
    *at_work: Pulse,
    score: Score = SCORE,
    window: int = 4,
    held_by: PauseCause | None = None,
    is_stopping: bool = False,
) -> Vitals:
    """Put pulses together."""
    pulses = Pulses()
    pulses.note(at_work, out=score.out)
    return pulses.vitals(score, window=window, held_by=held_by, is_stopping=is_stopping)


def workers_of(vitals: Vitals) -> Workers:
    """Return who is at work."""
    assert vitals.workers is not None
    return vitals.workers


# --- counts ---------------------------------------------------------------------------------------


def test_answers_of_shards_that_are_out_count_with_those_on_disk() -> None:
    """Invoices, money and requests in flight, of all workers together."""
    vitals = together(pulse(3), pulse(5, host="b", worker="b, process 1", amounts_canceled={"USD": "0.5"}))
    assert workers_of(vitals) == Workers(
        hosts=2,
        processes=2,
        answered={
            Outcome.CANCELED: 26,
            Outcome.ALREADY_PAID: 2,
            Outcome.PARTIALLY_PAID: 0,
            Outcome.ERROR: 1,
        },
    )
    assert vitals.amounts_canceled == {"EUR": "1.50", "USD": "0.5"}
    assert (vitals.in_flight, vitals.rows_left) == (4, 79)


def test_no_answer_counts_twice_or_falls_out_on_its_way_to_the_ledger() -> None:
    """A shard that has left its worker counts as it was last, until the coordinator has counted it itself."""
    pulses = Pulses()
    pulses.note([pulse(3), pulse(4)], out=SCORE.out)
    assert sum(pulses.answered(SCORE).values()) == 21 + 8
    pulses.note([pulse(4)], out=SCORE.out)
    assert sum(pulses.answered(SCORE).values()) == 21 + 8
    counted = replace(SCORE, outcomes={"canceled": 23, "already_paid": 1, "error": 1}, out=(4, 5))
    assert sum(pulses.answered(counted).values()) == 25 + 4
    pulses.note([pulse(4)], out=counted.out)
    assert sum(pulses.answered(SCORE).values()) == 21 + 4, "what was counted is forgotten"


def test_coordinator_of_an_older_version_says_only_what_is_on_disk() -> None:
    """It does not name the shards that are out."""
    vitals = together(pulse(3), score=replace(SCORE, out=()))
    assert sum(workers_of(vitals).answered.values()) == 21
    assert vitals.in_flight == 2


# --- what holds them ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("causes", "held_by"),
    [
        ([], None),
        ([None, "outage"], None),
        (["outage", "outage"], PauseCause.OUTAGE),
        (["rate_limited"], PauseCause.RATE_LIMITED),
        (["of_a_newer_version"], None),
    ],
    ids=str,
)
def test_job_is_held_if_all_its_shards_are(causes: list[str | None], held_by: PauseCause | None) -> None:
    """By hand comes first, whatever workers wait for."""
    pulses = [pulse(number, held_by=cause) for number, cause in enumerate(causes)]
    assert together(*pulses).held_by is held_by
    assert together(*pulses, held_by=PauseCause.BY_HAND).held_by is PauseCause.BY_HAND


@pytest.mark.parametrize("window", [1, 4, 20])
@pytest.mark.parametrize("at_work", [1, 2, 4])
def test_limit_is_what_was_asked_for_as_long_as_nothing_is_refused(window: int, at_work: int) -> None:
    """Fewer shards near the end are no sign of a refusal, nor are merchants with a rate of their own."""
    share = Shares(window, rate=300.0, concurrency=64).next().rate
    pulses = [pulse(number, allowed_rate=share, set_rate=share) for number in range(at_work)]
    merchant = pulse(at_work, allowed_rate=2.0, set_rate=2.0)
    vitals = together(*pulses, merchant, score=replace(SCORE, rate=300.0), window=window)
    assert (vitals.allowed_rate, vitals.set_rate) == (300.0, 300.0)


@pytest.mark.parametrize(
    ("rates", "score", "allowed"),
    [
        ([(40.0, 74.0), (50.0, 74.0)], replace(SCORE, rate=300.0), 180.0),
        ([(40.0, 40.0), (50.0, 50.0)], replace(SCORE, rate=300.0, is_cut=True), 180.0),
        ([(74.0, 74.0), (73.0, 74.0)], replace(SCORE, rate=250.0), 250.0),
        ([(9.0, None)], SCORE, 36.0),
        ([(9.0, None), (None, None)], SCORE, None),
        ([], replace(SCORE, rate=300.0, is_cut=True), 300.0),
    ],
    ids=["refused", "begun-lower", "no-more-than-asked", "no-rate", "one-of-two", "nobody"],
)
def test_limit_is_cut_after_refusals(
    rates: list[tuple[float | None, float | None]], score: Score, allowed: float | None
) -> None:
    """Also where shards begin with less than their even part."""
    pulses = [pulse(number, allowed_rate=now, set_rate=asked) for number, (now, asked) in enumerate(rates)]
    assert together(*pulses, score=score).allowed_rate == allowed


# --- who follows it -------------------------------------------------------------------------------


@dataclass
class Job:
    """A job that was looked at."""

    progress: Progress
    ended: Ended | None = None
    pulses: list[Pulse] = field(default_factory=list)
    name: str = "test/h/m"
    memo: Memo = Memo(  # noqa: RUF009 - it can't be changed
        run_id="r", ledger="l", host="h", operator="o", manifest=(), started_at="2026-11-26T20:41:21.123Z"
    )

    def answered(self) -> dict[Outcome, int]:
        return workers_of(self.vitals()).answered

    def vitals(self) -> Vitals:
        held_by = PauseCause.BY_HAND if self.progress.state == "paused" else None
        return together(*self.pulses, score=self.progress.score, held_by=held_by)


def looked_at(state: str = "running", **changes: Any) -> Progress:
    """Return what a workflow says."""
    return Progress(**{"state": state, "score": SCORE, "shards_out": 3, "window": 4, "rate": None, **changes})


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (Job(looked_at(), pulses=[pulse(3)]), "2 in flight, 1 worker on 1 host; 3 shards out"),
        (
            Job(looked_at(rate=30.0), pulses=[pulse(3, held_by="outage", in_flight=0)]),
            "30 requests a second; 0 in flight, 1 worker on 1 host; waiting out an outage; 3 shards out",
        ),
        (Job(looked_at()), "0 in flight, no worker at work; 3 shards out"),
        (Job(looked_at("paused", shards_out=0)), "a second; 0 in flight; 0 shards out"),
        (
            Job(looked_at("ended"), ended=Ended(is_canceled=False, score=SCORE)),
            "21 of 100 invoices: 20 canceled, 0 already paid, 0 partially paid, 1 error; 10.5 a second",
        ),
    ],
    ids=["at-work", "held", "alone", "paused", "ended"],
)
def test_a_line_says_what_goes_on(job: Job, said: str) -> None:
    """And nothing that is over."""
    assert sentence(job).endswith(said)


def test_keys_are_explained_in_their_order() -> None:
    """The reference is the interface."""
    pages = Path(__file__).parents[2] / "docs" / "reference" / "json.md"
    section = pages.read_text(encoding="utf-8").split("\n## `status --json`\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert [name for cell in cells for name in re.findall(r"`(\w+)`", cell)] == list(
        json.loads(json_line(Job(looked_at())))
    )


def test_the_page_shows_the_view_as_it_is() -> None:
    """Every word of it, in its order."""
    outcomes = dict(zip(Outcome, (2079, 24, 0, 0), strict=True))
    vitals = Vitals(
        in_flight=12,
        allowed_rate=200.0,
        set_rate=200.0,
        held_by=None,
        rows_left=4000,
        amounts_canceled={"EUR": "1958431.38", "GBP": "846022.24", "USD": "6629757.14"},
        is_stopping=False,
        workers=Workers(hosts=1, processes=2, answered=outcomes),
    )
    moment = Moment(
        total=4000,
        counted_as="outcomes",
        counts=count_outcomes(outcomes),
        cancels=True,
        rate=139.1,
        eta_s=14.0,
        merchants_stopped=0,
        vitals=vitals,
        goes_on=True,
    )
    lines = view(moment, width=79, height=24, has_keys=True)
    shown = "\n".join("".join(piece.text for piece in line) for line in lines)
    page = (Path(__file__).parents[2] / "docs" / "many-hosts.md").read_text(encoding="utf-8")
    assert f"```\n{shown}\n```\n" in page


def test_speed_is_that_of_the_whole_job_while_it_lasts() -> None:
    """The coordinator's own time is as old as its last answer."""
    assert json.loads(json_line(Job(looked_at())))["invoices_per_s"] < 10.5


@pytest.mark.parametrize(
    ("is_canceled", "score", "code"),
    [
        (False, DONE, 0),
        (True, DONE, 0),
        (False, SCORE, 3),
        (True, SCORE, 7),
        (False, replace(DONE, outcomes={"canceled": 99, "error": 1}), 3),
    ],
    ids=["done", "done-before-it-was-canceled", "left", "canceled", "errors"],
)
def test_follower_ends_as_the_coordinator_does(is_canceled: bool, score: Score, code: int) -> None:  # noqa: FBT001 - a parameter
    """As far as that can be seen from there; while it goes on, with nothing to complain of."""
    assert exit_code_of(Job(looked_at("ended"), ended=Ended(is_canceled=is_canceled, score=score))) == code
    assert exit_code_of(Job(looked_at())) == 0
