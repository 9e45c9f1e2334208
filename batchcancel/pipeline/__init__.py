"""The fan-out of rows to requests: bounded, streaming, with stop and drain."""

from batchcancel.pipeline.pipeline import DRAIN_S, MAX_WAITING, Pipeline

__all__ = ["DRAIN_S", "MAX_WAITING", "Pipeline"]
