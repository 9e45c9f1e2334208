"""The owner of retries: drives an invoice from its first request to its row, a page until it is there."""

from batchcancel.retry.case import Case, LeftOpen, Seen, Settled, Step, Waiting
from batchcancel.retry.pages import PageReader
from batchcancel.retry.retrier import Retrier

__all__ = ["Case", "LeftOpen", "PageReader", "Retrier", "Seen", "Settled", "Step", "Waiting"]
