"""How far a run is and how it goes: counts, the speed of late, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from batchcancel.model import (
    Event,
    MerchantStopped,
    Outcome,
    PauseCause,
    PauseEnded,
    PauseStarted,
    Vitals,
    Workers,
)
from batchcancel.observe.tracker import MARK_EVERY_S, Moment, Tracker
from batchcancel.observe.view import Line, view
from batchcancel.observe.watched import Count, Watched
from batchcancel.observe.words import duration_text, limit_texts, sentence, workers_text

VITALS = Vitals(
    in_flight=16, allowed_rate=None, set_rate=None, held_by=None, rows_left=1000, is_stopping=False
)
WIDTHS = (20, 40, 80, 200)


class Course:
    """Something that is watched; its seconds pass, and its invoices are done, when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.vitals = VITALS
        self.outcomes = dict.fromkeys(Outcome, 0)

    def watched(self, *, total: int = 1000) -> Watched:
        """Return what there is to watch; there are no keys."""
        return Watched(
            total=total,
            counted_as="outcomes",
            counts=lambda: counts(self.outcomes),
            cancels=True,
            vitals=lambda: self.vitals,
            pause=lambda: None,
            resume=lambda: None,
            stop=lambda: None,
        )

    def settle(self, count: int, outcome: Outcome = Outcome.CANCELED) -> None:
        """Bring some more invoices to their end."""
        self.outcomes[outcome] += count


@pytest.fixture
def course() -> Course:
    """Give a thousand invoices at 1000 s."""
    return Course()


@pytest.fixture
def tracker(course: Course) -> Tracker:
    """Begin to track them."""
    return Tracker(course.watched(), clock=lambda: course.now)


def counts(outcomes: dict[Outcome, int]) -> tuple[Count, ...]:
    """Count invoices as a run does."""
    return tuple(
        Count(key=word, text=word.replace("_", " "), number=number, style="green")
        for word, number in outcomes.items()
    )


def moment(**changes: Any) -> Moment:
    """Build a moment in the middle of a run, with other vitals where they are given."""
    outcomes = {
        Outcome.CANCELED: 12_000,
        Outcome.ALREADY_PAID: 200,
        Outcome.PARTIALLY_PAID: 45,
        Outcome.ERROR: 100,
    }
    amounts = {"EUR": "228237.17", "GBP": "183355.75", "USD": "992475.08"}
    own = ("total", "eta_s", "merchants_stopped", "cancels", "goes_on")
    known = {name: changes.pop(name) for name in own if name in changes}
    vitals = replace(VITALS, **{"amounts_canceled": amounts, **changes})
    return Moment(
        counted_as="outcomes",
        counts=counts(outcomes),
        rate=1234.56,
        vitals=vitals,
        **{"total": 20_000, "eta_s": 83.2, "merchants_stopped": 0, "cancels": True, **known},
    )


def at_work(processes: int, hosts: int) -> Workers:
    """Say that so many work on it elsewhere."""
    return Workers(hosts=hosts, processes=processes, answered={})


# --- speed and time left --------------------------------------------------------------------------


def test_the_speed_is_that_of_the_last_seconds(tracker: Tracker, course: Course) -> None:
    """Not the average since the start: who watches wants to know how it goes now."""
    for _ in range(100):
        course.now += 0.1
        course.settle(1)
        tracker.mark()
    assert tracker.moment().rate == pytest.approx(10.0, rel=0.01)
    for _ in range(200):
        course.now += 0.1
        course.settle(4)
        tracker.mark()
    assert tracker.moment().rate == pytest.approx(40.0, rel=0.01)
    course.now += 5.0
    assert 20 < tracker.moment().rate < 40
    course.now += 60.0
    assert tracker.moment().rate < 6


def test_one_that_is_slower_than_the_window_has_a_speed(tracker: Tracker, course: Course) -> None:
    """An invoice every 20 seconds: what was done last counts until more is."""
    for _ in range(3):
        for _ in range(40):
            course.now += MARK_EVERY_S
            tracker.mark()
            assert 0 <= tracker.moment().rate <= 0.1
        course.settle(1)
    course.now += MARK_EVERY_S
    assert tracker.moment().rate == pytest.approx(2 / 20.5, rel=0.05)


def test_what_was_done_before_it_was_watched_is_no_speed(course: Course) -> None:
    """A reconciliation marks what nobody can be asked about before it asks."""
    course.settle(500)
    tracker = Tracker(course.watched(), clock=lambda: course.now)
    course.now += 1.0
    now = tracker.moment()
    assert (now.done, now.rate, now.eta_s) == (500, 0.0, None)


def test_the_time_left_is_what_is_left_at_that_speed(tracker: Tracker, course: Course) -> None:
    """Nothing done: nobody knows. All done: none."""
    course.now += 10.0
    assert tracker.moment().eta_s is None
    course.settle(200)
    assert tracker.moment().eta_s == pytest.approx(40.0)
    course.settle(800, Outcome.ERROR)
    now = tracker.moment()
    assert (now.eta_s, now.done, now.share) == (0.0, 1000, 1.0)
    assert now.counts == counts(
        {Outcome.CANCELED: 200, Outcome.ALREADY_PAID: 0, Outcome.PARTIALLY_PAID: 0, Outcome.ERROR: 800}
    )


@pytest.mark.parametrize(
    ("changes", "is_known"),
    [
        ({"held_by": PauseCause.RATE_LIMITED}, True),
        ({"held_by": PauseCause.BY_HAND}, False),
        ({"held_by": PauseCause.OUTAGE}, False),
        ({"held_by": PauseCause.KEY_IN_DOUBT}, False),
        ({"is_stopping": True}, False),
    ],
    ids=str,
)
def test_nobody_knows_the_time_left_of_a_run_that_stands(
    tracker: Tracker, course: Course, changes: dict[str, object], *, is_known: bool
) -> None:
    """A wait for the rate belongs to the speed; a pause lasts as long as it lasts."""
    course.now += 10.0
    course.settle(200)
    course.vitals = replace(VITALS, **changes)
    assert (tracker.moment().eta_s is not None) is is_known


@pytest.mark.parametrize(
    ("cause", "is_forgotten"),
    [(cause, cause is not PauseCause.RATE_LIMITED) for cause in PauseCause],
    ids=str,
)
def test_after_a_pause_the_speed_begins_anew(
    tracker: Tracker, course: Course, cause: PauseCause, *, is_forgotten: bool
) -> None:
    """Otherwise its silence would double the time left."""
    course.now += 10.0
    course.settle(200)
    tracker.listen(PauseStarted(cause=cause, wait_s=None))
    course.now += 10.0
    tracker.listen(PauseEnded(cause=cause, lasted_s=10.0))
    course.now += 2.0
    course.settle(40)
    assert tracker.moment().rate == pytest.approx(20.0 if is_forgotten else 240 / 22, rel=0.01)


def test_stopped_merchants_are_counted(tracker: Tracker) -> None:
    """By no name."""
    for name in ("a", None):
        tracker.listen(MerchantStopped(merchant_id=name, why="refused"))
    assert tracker.moment().merchants_stopped == 2


def test_a_run_with_nothing_to_do_is_done(course: Course) -> None:
    """Nothing is divided by nothing."""
    now = Tracker(course.watched(total=0), clock=lambda: course.now).moment()
    assert (now.share, now.eta_s) == (1.0, None)


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "no limit"),
        ({"allowed_rate": 20.0, "set_rate": 20.0}, "limit 20 a second"),
        ({"allowed_rate": 0.25, "set_rate": 0.25}, "limit 0.25 a second"),
        (
            {"allowed_rate": 12.345, "set_rate": 20.0},
            "limit 12.3 a second, cut from 20 after a 429 or 503",
        ),
        ({"allowed_rate": 38.0}, "limit 38.0 a second, cut after a 429 or 503"),
        ({"allowed_rate": 38.0, "held_by": PauseCause.RATE_LIMITED}, "waiting as the service asked (429)"),
        ({"held_by": PauseCause.OUTAGE}, "waiting out an outage"),
        ({"held_by": PauseCause.KEY_IN_DOUBT}, "waiting, since the key is in doubt"),
        ({"held_by": PauseCause.BY_HAND}, "paused by you"),
        ({"held_by": PauseCause.BY_HAND, "workers": at_work(1, 1)}, "paused"),
        ({"held_by": PauseCause.BY_HAND, "is_stopping": True}, "stopping: no new cancelation leaves"),
        ({"is_stopping": True, "cancels": False}, "stopping: nothing new is asked"),
    ],
    ids=str,
)
def test_the_limit_says_why_it_is_what_it_is(changes: dict[str, object], said: str) -> None:
    """The nearest cause first."""
    assert ", ".join(limit_texts(moment(**changes))) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"workers": at_work(0, 0)}, "no worker at work"),
        ({"workers": at_work(0, 0), "held_by": PauseCause.BY_HAND}, None),
        ({"workers": at_work(0, 0), "is_stopping": True}, None),
        ({"workers": at_work(1, 1), "is_stopping": True}, "1 worker on 1 host"),
        ({"workers": at_work(12, 3)}, "12 workers on 3 hosts"),
    ],
    ids=str,
)
def test_workers_elsewhere_are_counted(changes: dict[str, Any], said: str | None) -> None:
    """In the view and in the sentence; that there is none is worth a word only where one should be."""
    shown = moment(**changes)
    assert workers_text(shown.vitals) == said
    texts = [sentence(shown), *text_of(view(shown, width=200, height=24, has_keys=False))]
    assert [text for text in texts if "worker" in text] == [text for text in texts if said and said in text]
    assert ("worker" in texts[0]) is (said is not None)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.0, "59 min 59 s"),
        (3600.0, "1 h 00 min"),
        (86_399.0, "23 h 59 min"),
        (86_400.0, "1 d 0 h"),
        (1e9, "11,574 d 1 h"),
    ],
    ids=str,
)
def test_a_time_is_said_in_two_units_at_most(seconds: float, said: str) -> None:
    """Nobody plans by the second what takes days."""
    assert duration_text(seconds) == said


def test_a_sentence_says_everything() -> None:
    """What has not happened is not mentioned."""
    said = sentence(moment(merchants_stopped=1))
    assert said == (
        "12,345 of 20,000 invoices: 12,000 canceled, 200 already paid, 45 partially paid, 100 error; "
        "1,234.6 a second, 16 in flight, no limit, about 1 min 23 s left; "
        "canceled so far: 228,237.17 EUR, 183,355.75 GBP, 992,475.08 USD; 1 merchant stopped"
    )
    short = sentence(moment(amounts_canceled={}, eta_s=None))
    assert short.endswith("100 error; 1,234.6 a second, 16 in flight, no limit")


# --- the view -------------------------------------------------------------------------------------


def text_of(lines: list[Line]) -> list[str]:
    """Return what a reader sees."""
    return ["".join(piece.text for piece in line) for line in lines]


def moments() -> Iterator[Any]:
    """Give moments that are short, long and special."""
    yield pytest.param(moment(), id="usual")
    yield pytest.param(moment(eta_s=None, amounts_canceled={}), id="little")
    yield pytest.param(moment(total=0, eta_s=None), id="nothing to do")
    yield pytest.param(moment(held_by=PauseCause.OUTAGE, merchants_stopped=2), id="outage")
    yield pytest.param(moment(is_stopping=True), id="stopping")
    many = {f"{code}{code}X": f"{code * 7}0000000000.00" for code in map(str, range(1, 10))}
    huge = moment(total=10**12, eta_s=1e9, amounts_canceled=many, allowed_rate=1234.5, set_rate=10_000.0)
    yield pytest.param(huge, id="huge")


@pytest.mark.parametrize("has_keys", [True, False], ids=["keys", "no-keys"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("shown", list(moments()))
def test_nothing_wraps(shown: Moment, width: int, *, has_keys: bool) -> None:
    """Whatever there is to show and however narrow the terminal is."""
    lines = text_of(view(shown, width=width, height=50, has_keys=has_keys))
    assert max(map(len, lines)) <= width
    assert all(line and line == line.strip() for line in lines)
    assert ("q stop" in lines[-1]) is has_keys


@pytest.mark.parametrize("height", [1, 2, 3, 5, 24])
@pytest.mark.parametrize("shown", list(moments()))
def test_the_view_is_lower_than_the_terminal(shown: Moment, height: int) -> None:
    """The first lines and the keys stay."""
    lines = text_of(view(shown, width=40, height=height, has_keys=True))
    assert 1 <= len(lines) <= max(1, height - 1)
    if height > 2:
        assert "q stop" in lines[-1]


def test_eighty_columns_show_everything() -> None:
    """A line for each thing."""
    assert text_of(view(moment(merchants_stopped=2), width=80, height=24, has_keys=True)) == [
        f"{'━' * 22}{'─' * 14}   61 %   12,345 of 20,000   1 min 23 s left",
        "12,000 canceled   200 already paid   45 partially paid   100 error",
        "1,234.6 a second   16 in flight   no limit   2 merchants stopped",
        "canceled so far   228,237.17 EUR   183,355.75 GBP   992,475.08 USD",
        "p pause   q stop",
    ]


def test_the_readme_shows_the_view_as_it_is() -> None:
    """Every word of it, in its order."""
    now = Moment(
        total=306,
        counted_as="outcomes",
        counts=counts(dict(zip(Outcome, (123, 4, 1, 7), strict=True))),
        cancels=True,
        rate=52.7,
        eta_s=3.2,
        merchants_stopped=0,
        vitals=replace(
            VITALS,
            in_flight=0,
            allowed_rate=100.0,
            set_rate=100.0,
            amounts_canceled={"EUR": "99307.98", "GBP": "78735.81", "USD": "452584.13"},
        ),
    )
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    shown = "\n".join(text_of(view(now, width=79, height=24, has_keys=True)))
    assert f"```\n{shown}\n```\n" in readme


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, "p pause   q stop"),
        ({"held_by": PauseCause.OUTAGE}, "p pause   q stop"),
        ({"held_by": PauseCause.BY_HAND}, "p go on   q stop"),
        ({"is_stopping": True}, "q stop at once"),
        ({"goes_on": True}, "p pause   q leave"),
        ({"goes_on": True, "held_by": PauseCause.BY_HAND}, "p go on   q leave"),
        ({"goes_on": True, "is_stopping": True}, "q leave"),
    ],
    ids=str,
)
def test_the_keys_say_what_they_do_now(changes: dict[str, object], keys: str) -> None:
    """The same key does another thing in another state."""
    assert text_of(view(moment(**changes), width=80, height=24, has_keys=True))[-1] == keys


@pytest.mark.parametrize("cause", PauseCause)
def test_forty_columns_have_every_reason_in_full(cause: PauseCause) -> None:
    """It is what one looks for when nothing moves."""
    held = text_of(view(moment(held_by=cause), width=39, height=24, has_keys=True))
    cut = moment(allowed_rate=1234.5, set_rate=10_000.0)
    shown = [*held, *text_of(view(cut, width=39, height=24, has_keys=True))]
    assert not any("…" in line for line in shown), shown
    assert any("cut from 10,000 after a 429 or 503" in line for line in shown)


def test_no_id_is_shown(tracker: Tracker, course: Course) -> None:
    """Ids are the manifest's, and a screen is seen by others."""
    event: Event = MerchantStopped(merchant_id="secret-merchant", why="secret-why")
    tracker.listen(event)
    course.settle(3)
    now = tracker.moment()
    shown = " ".join(text_of(view(now, width=200, height=50, has_keys=True))) + sentence(now)
    assert "secret" not in shown
    assert "3 canceled" in shown
