"""The HTML page: one file that asks for nothing from anywhere. Needs the extra ``report``.

``parts`` says what stands on it, ``render`` puts it into the template, which lies here with its style
sheet and its script.
"""

from batchcancel.report.page.render import render_page

__all__ = ["render_page"]
