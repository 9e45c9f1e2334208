"""``doctor``: look before a run at everything that it needs, and say what to mend.

``examine`` goes from cheap to far: ``software``, ``configuration``, ``keys`` and ``secret_shape``,
``ledger``, ``network``, ``service``, and ``live`` where it is asked for.
"""

from batchcancel.tasks.doctor.checks import Check, Grade
from batchcancel.tasks.doctor.examine import Examination
from batchcancel.tasks.doctor.live import FACTS, Judged, LiveCheck, Made, State, Verdict

__all__ = ["FACTS", "Check", "Examination", "Grade", "Judged", "LiveCheck", "Made", "State", "Verdict"]
