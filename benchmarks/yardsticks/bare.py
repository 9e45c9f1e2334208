"""The least that can be done with aiohttp: sign each request, send it, read the reply, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import uvloop

from benchmarks.yardsticks.task import Task, read_task, tell

_BODY = b"{}"
_HEADERS = {"Accept": "application/json", "Content-Type": "application/json;charset=utf-8"}


def main() -> None:
    """Send every cancelation."""
    task = read_task()
    began_at = time.perf_counter()
    settled = uvloop.run(_send_all(task))
    tell(settled=settled, seconds=time.perf_counter() - began_at)


async def _send_all(task: Task) -> int:
    """Let as many workers as there may be requests in flight share the ids; return how many were read."""
    token = _tokens(task)
    ids = iter(task.invoice_ids)
    settled = 0

    async def work(session: aiohttp.ClientSession) -> None:
        nonlocal settled
        for invoice_id in ids:
            path = f"/invoicing/v2/invoices/{invoice_id}/cancelation"
            headers = {"Authorization": f"Bearer {token(path)}"}
            async with session.post(path, data=_BODY, headers=headers) as reply:
                await reply.read()
            settled += 1

    connector = aiohttp.TCPConnector(limit=task.concurrency)
    async with aiohttp.ClientSession(task.base_url, connector=connector, headers=_HEADERS) as session:
        await asyncio.gather(*(work(session) for _ in range(task.concurrency)))
    return settled


def _tokens(task: Task) -> Callable[[str], str]:
    """Return what makes a token, version 2, for a path; what never changes is made once."""
    header = _encode({"alg": "HS256", "kid": task.key_id, "typ": "JWT"})
    secret = task.secret
    constant = {
        "digest": b64encode(hashlib.sha256(_BODY).digest()).decode(),
        "digestAlgorithm": "SHA-256",
        "iss": task.merchant_id,
        "request-host": urlsplit(task.base_url).hostname,
        "request-method": "POST",
        "v-c-jwt-version": "2",
        "v-c-merchant-id": task.merchant_id,
    }

    def token(path: str) -> str:
        now = int(time.time())
        fresh = {"iat": now, "exp": now + 120, "jti": str(uuid4()), "request-resource-path": path}
        signed = header + b"." + _encode(constant | fresh)
        signature = hmac.digest(secret, signed, "sha256")
        return (signed + b"." + urlsafe_b64encode(signature).rstrip(b"=")).decode()

    return token


def _encode(fields: dict[str, object]) -> bytes:
    return urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).rstrip(b"=")


if __name__ == "__main__":
    main()
