"""The fan-out of rows to requests: bounded, streaming, with stop and drain."""

from batchcancel.pipeline.entrance import Entrance
from batchcancel.pipeline.exposure import Exposure, Turnstile
from batchcancel.pipeline.fleet import Fleet, Lane
from batchcancel.pipeline.pipeline import DRAIN_S, MAX_WAITING, Onlooker, Pipeline, Sink, Witness

__all__ = [
    "DRAIN_S",
    "MAX_WAITING",
    "Entrance",
    "Exposure",
    "Fleet",
    "Lane",
    "Onlooker",
    "Pipeline",
    "Sink",
    "Turnstile",
    "Witness",
]
