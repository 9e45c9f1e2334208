"""What every yardstick is given, and what it says at its end. Needs the standard library only."""

from __future__ import annotations

import argparse
import base64
import csv
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Invoices to cancel, where, and with whose key."""

    base_url: str
    invoice_ids: list[str]
    concurrency: int
    """Most requests in flight."""
    folder: Path
    """Where files may be written."""
    merchant_id: str
    key_id: str
    shared_secret: str
    """Base64, as the service hands it out."""

    @property
    def secret(self) -> bytes:
        """What HMAC takes."""
        return base64.b64decode(self.shared_secret)


def read_task() -> Task:
    """Read the command line, the manifest that it names, and the credentials in the environment."""
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    with arguments.manifest.open(encoding="utf-8", newline="") as manifest:
        invoice_ids = [row["invoice_id"] for row in csv.DictReader(manifest)]
    return Task(
        base_url=arguments.base_url,
        invoice_ids=invoice_ids,
        concurrency=arguments.concurrency,
        folder=arguments.folder,
        merchant_id=os.environ["BATCHCANCEL_MERCHANT_ID"],
        key_id=os.environ["BATCHCANCEL_KEY_ID"],
        shared_secret=os.environ["BATCHCANCEL_SHARED_SECRET"],
    )


def tell(*, settled: int, seconds: float) -> None:
    """Say how many invoices were settled, and in how many seconds without the program's start-up."""
    json.dump({"settled": settled, "duration_s": seconds}, sys.stdout)
