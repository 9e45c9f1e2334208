"""How often batchcancel signs, encrypts or decrypts, with the keys as a job loads them."""

from __future__ import annotations

import time
from collections.abc import Callable

from batchcancel import load_settings
from batchcancel.api.envelope import encrypted_reply
from batchcancel.job.keys import load_keys
from benchmarks.yardsticks.signing_task import BODY, HOST, read_signing_task, targets, tell_rate


def main() -> None:
    """Measure one way; the environment says which keys."""
    task = read_signing_task()
    keys = load_keys(load_settings(["invoices.csv"], env="test"))
    signer, encryption = keys.signer, keys.encryption
    target = targets()

    def sign(body: bytes) -> dict[str, str]:
        return signer.headers(method="POST", target=next(target), host=HOST, body=body, now=time.time())

    call: Callable[[], object] = lambda: sign(BODY.encode())  # noqa: E731 - one of three
    if task.way == "decrypt":
        reply = task.encrypted_reply
        assert encryption is not None  # noqa: S101 - the environment asks for it
        call = lambda: encryption.decrypt(encrypted_reply(reply) or "")  # noqa: E731
        if call() is None:
            raise ValueError("the reply could not be decrypted")
    elif encryption is not None:
        call = lambda: sign(encryption.encrypt(BODY.encode(), now=time.time()))  # noqa: E731
    tell_rate(call, task.least_s)


if __name__ == "__main__":
    main()
