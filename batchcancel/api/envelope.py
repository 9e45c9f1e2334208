"""The two JSON objects that carry encrypted messages, and nothing of the encryption itself."""

from __future__ import annotations

from typing import Final

import msgspec

_REPLY_NAME: Final = "encryptedResponse"


def wrap_request(jwe: str) -> bytes:
    """Return the body that carries an encrypted request; signatures cover this body."""
    return msgspec.json.encode({"encryptedRequest": jwe})


def encrypted_reply(body: bytes) -> str | None:
    """Return the JWE that a reply's body carries; None if the body is plain.

    A body is encrypted if it is an object with just that one name and a text as its value; the official
    SDK goes by the same. Never raises, whatever the service sent.
    """
    if _REPLY_NAME.encode() not in body:
        return None
    try:
        fields = msgspec.json.decode(body)
    # UnicodeDecodeError is a ValueError; deep nesting ends in RecursionError.
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or fields.keys() != {_REPLY_NAME}:
        return None
    jwe = fields[_REPLY_NAME]
    return jwe if isinstance(jwe, str) else None
