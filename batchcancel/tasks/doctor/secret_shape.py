"""Whether a text has the shape of a shared secret, told without anything of it. Pure."""

from __future__ import annotations

import base64
import re
from typing import Final

_USUAL_BYTES: Final = 32
"""Of the examples in the service's own guides and samples; no length is documented."""
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9+/=]")


def problem_of(text: str) -> str | None:
    """Say why a text is no base64; None if it is. White space does not count.

    Args:
        text: The secret as it was given; nothing of it gets into the sentence.
    """
    packed = "".join(text.split())
    if not packed:
        return "it is empty"
    if packed[0] in "\"'" or packed[-1] in "\"'":
        return "it stands in quotes, which are no part of it"
    if "-" in packed or "_" in packed:
        return "it has - or _, which base64 writes as + and /"
    if foreign := len(_FOREIGN.findall(packed)):
        return f"{foreign} of its {len(packed)} characters are none of base64's"
    if len(packed) % 4 or "=" in packed.rstrip("="):
        return (
            f"it has {len(packed)} characters, which is no multiple of 4 or has = inside: some may be missing"
        )
    try:
        base64.b64decode(packed, validate=True)
    except ValueError:
        return "the = at its end do not fit"
    return None


def shape_of(text: str) -> tuple[str, str | None]:
    """Describe a text that is base64.

    Returns:
        Its shape, and what is unusual about it; None if nothing is.
    """
    size = len(base64.b64decode("".join(text.split())))
    unusual = None
    if size < _USUAL_BYTES:
        unusual = f"Secrets of the Business Center usually have {_USUAL_BYTES} bytes; was a part left out?"
    inside = text.removesuffix("\n")
    space = ", white space in it is left out" if any(map(str.isspace, inside)) else ""
    return f"base64 of {size} bytes{space}", unusual
