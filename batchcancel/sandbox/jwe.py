"""Encrypted messages in their compact form (RFC 7516), as the service uses it.

From primitives and not through a library, so that a client that goes through one is checked by another
hand: RSA-OAEP-256 wraps a fresh key, A256GCM encrypts with it and guards the header as well [S].
"""

from __future__ import annotations

import json
import os
import re
from http import HTTPStatus
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256

from batchcancel.sandbox.wire import (
    RefusedError,
    decode_base64url,
    decode_object,
    demand,
    encode_base64url,
)

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){4}")
_ALGORITHM: Final = "RSA-OAEP-256"  # [S]; one example of the guide has RSA-OAEP [D]
_ENCRYPTION: Final = "A256GCM"
_FIELDS: Final = frozenset({"alg", "enc", "kid", "iat", "typ", "cty"})
"""What a header may hold: ``zip`` could blow up, ``crit`` would have to be understood [A]."""
_KEY_BYTES: Final = 32
_IV_BYTES: Final = 12
_TAG_BYTES: Final = 16
_OAEP: Final = padding.OAEP(mgf=padding.MGF1(SHA256()), algorithm=SHA256(), label=None)


def decrypt(token: str, private_key: RSAPrivateKey, key_id: str) -> bytes:
    """Decrypt a message that was encrypted for a key.

    Args:
        token: The compact form, five parts.
        private_key: The private half of the key.
        key_id: What the header's ``kid`` has to be.

    Raises:
        RefusedError: It is for another key, by another algorithm, or was touched; always 400 [A].
    """
    try:
        demand(_COMPACT.fullmatch(token) is not None, "malformed JWE")
        header, wrapped_key, iv_part, encrypted, tag_part = token.split(".")
        _check_header(header, key_id)
        iv, tag = decode_base64url(iv_part), decode_base64url(tag_part)
        demand(len(iv) == _IV_BYTES and len(tag) == _TAG_BYTES, "malformed JWE")
        content_key = private_key.decrypt(decode_base64url(wrapped_key), _OAEP)
        demand(len(content_key) == _KEY_BYTES, "the JWE's content key has the wrong length")
        return AESGCM(content_key).decrypt(iv, decode_base64url(encrypted) + tag, header.encode("ascii"))
    except RefusedError as refused:
        raise RefusedError(refused.cause, HTTPStatus.BAD_REQUEST) from None
    except (ValueError, InvalidTag):
        # Which of the two it was helps only who tries keys.
        raise RefusedError("the JWE can't be decrypted", HTTPStatus.BAD_REQUEST) from None


def encrypt(plain: bytes, public_key: RSAPublicKey, key_id: str, iat_s: int) -> str:
    """Encrypt a message for whoever holds a private key.

    Args:
        plain: The message, of any length.
        public_key: The public half of the key.
        key_id: The header's ``kid``.
        iat_s: The header's ``iat``: now, Unix seconds.
    """
    fields = {"alg": _ALGORITHM, "enc": _ENCRYPTION, "kid": key_id, "iat": iat_s}
    header = encode_base64url(json.dumps(fields).encode())
    content_key, iv = os.urandom(_KEY_BYTES), os.urandom(_IV_BYTES)
    sealed = AESGCM(content_key).encrypt(iv, plain, header.encode("ascii"))
    encrypted, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
    parts = (public_key.encrypt(content_key, _OAEP), iv, encrypted, tag)
    return ".".join([header, *map(encode_base64url, parts)])


def _check_header(part: str, key_id: str) -> None:
    header = decode_object(part)
    demand(header.get("alg") == _ALGORITHM, f"the JWE's alg is not {_ALGORITHM}")
    demand(header.get("enc") == _ENCRYPTION, f"the JWE's enc is not {_ENCRYPTION}")
    demand(header.get("kid") == key_id, "the JWE is for another key")
    # type() and not isinstance(): true is an int to Python.
    demand(type(header.get("iat")) is int, "the JWE's iat is not an integer")
    demand(header.keys() <= _FIELDS, "the JWE's header holds more than it may")
