"""From results to what a person or a program reads."""

from batchcancel.report.summary import mask, summary_json, summary_text

__all__ = ["mask", "summary_json", "summary_text"]
