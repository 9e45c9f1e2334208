"""What no ledger and no log may show of a text that the service sent. Pure."""

from __future__ import annotations

import re
from typing import Final

_EMAIL: Final = re.compile(r"[^\s@<>(),;:\[\]]{1,64}(?:@|%40)[^\s@<>(),;:\[\]]+", re.IGNORECASE)
_TOKEN: Final = re.compile(r"(?:Bearer )?eyJ[\w-]{8,}[\w.-]*|[\w+/=.-]{40,}", re.ASCII)
"""A JSON Web Token or a part of it, or whatever else is too long for a word: a signature, a key."""


def mask(text: str) -> str:
    """Take out e-mail addresses and whatever may be an echo of what signs a request."""
    return _TOKEN.sub("***", _EMAIL.sub("***", text))
