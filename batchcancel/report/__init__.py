"""From results to what a person or a program reads.

``summary`` tells of one run at its end. The rest tells of ledgers: ``reading`` finds each invoice's
answer, ``figures`` and ``activity`` sum up, ``text``, ``page``, ``exports`` and ``xlsx`` write.
"""

from batchcancel.report.summary import (
    count_invoices,
    count_merchants,
    count_rows,
    mask,
    summary_json,
    summary_text,
)

__all__ = ["count_invoices", "count_merchants", "count_rows", "mask", "summary_json", "summary_text"]
