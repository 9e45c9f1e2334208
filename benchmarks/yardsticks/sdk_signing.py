"""How often the official SDK signs, encrypts or decrypts: what it does for a request, without sending it.

Run by a Python that has ``cybersource-rest-client-python``, which may lack everything else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from CyberSource.api_client import ApiClient, MLEUtility

from benchmarks.yardsticks.signing_task import (
    BODY,
    HOST,
    SigningTask,
    read_signing_task,
    targets,
    tell_rate,
)


def main() -> None:
    """Measure one way."""
    task = read_signing_task()
    client = ApiClient()
    client.set_configuration(_configuration(task))
    target = targets()

    def sign(body: str) -> None:
        headers: dict[str, str] = {}
        client.call_authentication_header("POST", headers, body, next(target))
        if not headers.keys() & {"Authorization", "Signature"}:  # the SDK may swallow what went wrong
            raise ValueError("the SDK did not sign")

    call: Callable[[], object] = lambda: sign(BODY)  # noqa: E731 - one of three
    if task.way == "decrypt":
        reply = task.encrypted_reply.decode("ascii")
        call = lambda: MLEUtility.decrypt_mle_response_payload(client.mconfig, reply)  # noqa: E731
    elif task.way == "p12_encrypted":
        call = lambda: sign(MLEUtility.encrypt_request_payload(client.mconfig, BODY))  # noqa: E731
    tell_rate(call, task.least_s)


def _configuration(task: SigningTask) -> dict[str, Any]:
    merchant_id = os.environ["BATCHCANCEL_MERCHANT_ID"]
    common = {"merchantid": merchant_id, "run_environment": HOST}
    if task.way in {"jwt", "http_signature"}:
        return common | {
            "authentication_type": "jwt" if task.way == "jwt" else "http_signature",
            "jwt_key_type": "SHARED_SECRET",
            "merchant_keyid": os.environ["BATCHCANCEL_KEY_ID"],
            "merchant_secretkey": os.environ["BATCHCANCEL_SHARED_SECRET"],
        }
    return common | {
        "authentication_type": "jwt",
        "jwt_key_type": "P12",
        "keys_directory": str(task.folder),
        "key_file_name": "signing",
        "key_alias": merchant_id,
        "key_password": task.password,
        "responseMlePrivateKeyFilePath": str(task.folder / "response-mle.p12"),
        "responseMlePrivateKeyFilePassword": task.password,
    }


if __name__ == "__main__":
    main()
