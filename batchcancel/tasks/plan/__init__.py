"""``plan``: what a run would do, found out by looking alone."""

from batchcancel.tasks.plan.plan import PlanJob
from batchcancel.tasks.plan.survey import PlanSummary, StatusGroup

__all__ = ["PlanJob", "PlanSummary", "StatusGroup"]
