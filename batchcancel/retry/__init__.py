"""The owner of retries: drives one invoice from its first request to its row."""

from batchcancel.retry.case import Case, LeftOpen, Seen, Settled, Step, Waiting
from batchcancel.retry.retrier import Retrier

__all__ = ["Case", "LeftOpen", "Retrier", "Seen", "Settled", "Step", "Waiting"]
