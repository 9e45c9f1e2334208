"""Unique ids for tokens."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from uuid import RFC_4122, UUID

from batchcancel.api.token_ids import new_token_id

_FORK = """
import os
from batchcancel.api.token_ids import new_token_id
new_token_id()  # the next ones are drawn by now
reading, writing = os.pipe()
if os.fork() == 0:
    os.write(writing, " ".join(new_token_id() for _ in range(50)).encode())
    os._exit(0)
os.wait()
print(os.read(reading, 4096).decode(), *(new_token_id() for _ in range(50)))
"""


def test_ids_are_random_uuids() -> None:
    """Each is a version 4 UUID as the standard library writes it, over more than one drawing."""
    ids = [new_token_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    for text in ids:
        uuid = UUID(text)
        assert (str(uuid), uuid.version, uuid.variant) == (text, 4, RFC_4122)
    # Every other bit is random: each of the 32 digits takes all the values that it may.
    seen = [len({text[place] for text in ids}) for place in range(36)]
    assert [seen[place] for place in (8, 13, 14, 18, 19, 23)] == [1, 1, 1, 1, 4, 1]
    assert {seen[place] for place in range(36) if place not in {8, 13, 14, 18, 19, 23}} == {16}


def test_threads_never_share_an_id() -> None:
    """Slow keys sign in threads."""
    with ThreadPoolExecutor(8) as threads:
        drawn = threads.map(lambda _: [new_token_id() for _ in range(2000)], range(8))
        ids = [text for part in drawn for text in part]
    assert len(set(ids)) == len(ids) == 16_000


def test_a_forked_process_never_repeats_its_parents_ids() -> None:
    """What was drawn before the fork is the parent's alone."""
    done = subprocess.run(
        [sys.executable, "-c", _FORK], capture_output=True, text=True, check=True, timeout=60
    )
    ids = done.stdout.split()
    assert len(ids) == len(set(ids)) == 100
