"""A script of the usual kind, with the libraries that one reaches for.

A task a row under one semaphore, tenacity round each call, PyJWT for the token, and for each row one write
through aiofiles and one log line through structlog. No row waits for the disk, and nothing is done twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from base64 import b64encode
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiofiles
import aiohttp
import jwt
import structlog
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from benchmarks.yardsticks.task import Task, read_task, tell

_BODY = b"{}"
_HEADERS = {"Accept": "application/json", "Content-Type": "application/json;charset=utf-8"}


def main() -> None:
    """Cancel every invoice."""
    task = read_task()
    with (task.folder / "usual.log").open("w", encoding="utf-8") as log:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso"),
                structlog.processors.JSONRenderer(),
            ],
            logger_factory=structlog.WriteLoggerFactory(log),
            cache_logger_on_first_use=True,
        )
        began_at = time.perf_counter()
        settled = asyncio.run(_cancel_all(task))
        tell(settled=settled, seconds=time.perf_counter() - began_at)


async def _cancel_all(task: Task) -> int:
    log = structlog.get_logger()
    semaphore = asyncio.Semaphore(task.concurrency)
    host = urlsplit(task.base_url).hostname or ""
    secret = task.secret

    @retry(
        retry=retry_if_exception_type((aiohttp.ClientError, TimeoutError)),
        wait=wait_random_exponential(multiplier=0.5, max=20),
        stop=stop_after_attempt(5),
        reraise=True,
    )
    async def post(path: str) -> dict[str, Any]:
        token = jwt.encode(_claims(task, host, path), secret, "HS256", headers={"kid": task.key_id})
        async with session.post(path, data=_BODY, headers={"Authorization": f"Bearer {token}"}) as reply:
            reply.raise_for_status()
            fields: dict[str, Any] = await reply.json()
            return fields

    async def cancel(invoice_id: str) -> bool:
        async with semaphore:
            fields = await post(f"/invoicing/v2/invoices/{invoice_id}/cancelation")
        row = {"invoice_id": invoice_id, "status": fields["status"], "at": time.time()}
        await results.write(json.dumps(row) + "\n")
        log.info("invoice.canceled", invoice_id=invoice_id, status=fields["status"])
        return bool(fields["status"] == "CANCELED")

    connector = aiohttp.TCPConnector(limit=task.concurrency)
    async with (
        aiofiles.open(task.folder / "usual.jsonl", "w", encoding="utf-8") as results,
        aiohttp.ClientSession(task.base_url, connector=connector, headers=_HEADERS) as session,
    ):
        return sum(await asyncio.gather(*map(cancel, task.invoice_ids)))


def _claims(task: Task, host: str, path: str) -> dict[str, Any]:
    now = int(time.time())
    return {
        "digest": b64encode(hashlib.sha256(_BODY).digest()).decode(),
        "digestAlgorithm": "SHA-256",
        "exp": now + 120,
        "iat": now,
        "iss": task.merchant_id,
        "jti": str(uuid4()),
        "request-host": host,
        "request-method": "POST",
        "request-resource-path": path,
        "v-c-jwt-version": "2",
        "v-c-merchant-id": task.merchant_id,
    }


if __name__ == "__main__":
    main()
