"""From results to what a person or a program reads."""

from batchcancel.report.summary import (
    count_invoices,
    count_merchants,
    count_rows,
    mask,
    summary_json,
    summary_text,
)

__all__ = ["count_invoices", "count_merchants", "count_rows", "mask", "summary_json", "summary_text"]
