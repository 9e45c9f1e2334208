"""Manifests: files that name invoices, read twice over one descriptor each.

The check reads everything and reports what is there; the rows follow in a second pass, from bytes
that are proved to be the checked ones before any of them is parsed.
"""

from __future__ import annotations

from batchcancel.manifest.exclusion import read_excluded_ids
from batchcancel.manifest.options import Format, ManifestOptions
from batchcancel.manifest.passes import Manifest, open_manifest
from batchcancel.manifest.survey import Check, ManifestFile

__all__ = [
    "Check",
    "Format",
    "Manifest",
    "ManifestFile",
    "ManifestOptions",
    "open_manifest",
    "read_excluded_ids",
]
