"""What workers say of the shards that are out, put together to how the whole job goes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from batchcancel.cluster.messages import Pulse, Score
from batchcancel.job.amounts import add_up
from batchcancel.model import Outcome, PauseCause, Vitals, Workers

_CAUSES: Final = {cause.value: cause for cause in PauseCause}


class Pulses:
    """The last pulse of every shard that is out."""

    def __init__(self) -> None:
        """Begin without any."""
        self._latest: dict[int, Pulse] = {}
        self._at_work: tuple[Pulse, ...] = ()

    def note(self, at_work: Iterable[Pulse], *, out: Iterable[int]) -> None:
        """Take in what is known by now.

        Args:
            at_work: The pulses of all shards that workers have.
            out: The shards whose answers the coordinator has not counted. One of them may have left its
                worker: what was known of it last counts until its answers do.
        """
        self._at_work = tuple(at_work)
        self._latest |= {pulse.shard: pulse for pulse in self._at_work}
        kept = {*out, *(pulse.shard for pulse in self._at_work)}
        self._latest = {number: pulse for number, pulse in self._latest.items() if number in kept}

    def answered(self, score: Score) -> dict[Outcome, int]:
        """Count invoices with an answer, whoever has it by now; all outcomes are there, zero or not."""
        counts = {outcome: score.outcomes.get(outcome.value, 0) for outcome in Outcome}
        for pulse in self._uncounted(score):
            for outcome in Outcome:
                counts[outcome] += pulse.outcomes.get(outcome.value, 0)
        return counts

    def vitals(self, score: Score, *, window: int, held_by: PauseCause | None, is_stopping: bool) -> Vitals:
        """Tell how the job goes.

        Args:
            score: Of the coordinator.
            window: Shards that may be at work at the same time.
            held_by: What holds the whole job; None leaves it to what workers say.
            is_stopping: Whether no shard is to go on.
        """
        pulses = self._at_work
        return Vitals(
            in_flight=sum(pulse.in_flight for pulse in pulses),
            allowed_rate=_allowed_rate(pulses, score, window=window),
            set_rate=score.rate,
            held_by=held_by or _held_by(pulses),
            amounts_canceled=self._amounts(score),
            rows_left=score.to_settle - score.done,
            is_stopping=is_stopping,
            workers=Workers(
                hosts=len({pulse.host for pulse in pulses}),
                processes=len({pulse.worker for pulse in pulses}),
                answered=self.answered(score),
            ),
        )

    def _amounts(self, score: Score) -> dict[str, str]:
        parts = [pulse.amounts_canceled for pulse in self._uncounted(score)]
        return add_up([score.amounts_canceled, *parts])

    def _uncounted(self, score: Score) -> list[Pulse]:
        """Return what is known of shards whose answers the coordinator has not counted."""
        return [self._latest[number] for number in score.out if number in self._latest]


def _held_by(pulses: Sequence[Pulse]) -> PauseCause | None:
    """Return what holds all of them; a cause that only a newer version knows is none."""
    causes = [_CAUSES.get(pulse.held_by or "") for pulse in pulses]
    return causes[0] if causes and None not in causes else None


def _allowed_rate(pulses: Sequence[Pulse], score: Score, *, window: int) -> float | None:
    """Return what all may send together, were as many at work as may be.

    Near the end of a job, or where each merchant has a rate of its own, they send less: that is no sign that
    the service has refused anything.
    """
    rates = [pulse.allowed_rate for pulse in pulses if pulse.allowed_rate is not None]
    if not rates or len(rates) < len(pulses) or not (score.is_cut or any(map(_is_cut, pulses))):
        return score.rate
    together = window * sum(rates) / len(rates)
    return together if score.rate is None else min(together, score.rate)


def _is_cut(pulse: Pulse) -> bool:
    if pulse.allowed_rate is None:
        return False
    return pulse.set_rate is None or pulse.allowed_rate < pulse.set_rate
