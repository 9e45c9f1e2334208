"""``doctor --live-check``: which of the assumed facts about the service hold, tried on three drafts."""

from batchcancel.tasks.doctor.live.check import LiveCheck
from batchcancel.tasks.doctor.live.facts import FACTS, Judged, Verdict
from batchcancel.tasks.doctor.live.made import Made, State

__all__ = ["FACTS", "Judged", "LiveCheck", "Made", "State", "Verdict"]
