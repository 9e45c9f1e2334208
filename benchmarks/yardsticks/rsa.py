"""RSA and nothing else: how many signatures a second some threads make that share the cores."""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization.pkcs12 import load_key_and_certificates

_TOKEN = b"x" * 600
"""As long as what is signed of a token."""


def main() -> None:
    """Sign in every thread for so many seconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("p12", type=Path)
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    password = arguments.password_file.read_bytes().strip()
    key, _, _ = load_key_and_certificates(arguments.p12.read_bytes(), password)
    assert isinstance(key, RSAPrivateKey)  # noqa: S101 - throwaway keys are
    began_at, cpu_began_s = time.perf_counter(), time.process_time()
    ends_at = began_at + arguments.seconds

    def sign(_thread: int) -> int:
        signed = 0
        while time.perf_counter() < ends_at:
            key.sign(_TOKEN, PKCS1v15(), SHA256())
            signed += 1
        return signed

    with ThreadPoolExecutor(arguments.threads) as threads:
        signed = sum(threads.map(sign, range(arguments.threads)))
    took_s, cpu_s = time.perf_counter() - began_at, time.process_time() - cpu_began_s
    json.dump({"per_s": signed / took_s, "per_cpu_s": signed / cpu_s}, sys.stdout)


if __name__ == "__main__":
    main()
