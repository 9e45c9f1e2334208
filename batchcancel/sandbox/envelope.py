"""Message-level encryption: take a request out of its envelope, put a reply into one."""

from __future__ import annotations

import json
from dataclasses import replace
from http import HTTPStatus

from batchcancel.sandbox.answers import JSON_TYPE, Answer
from batchcancel.sandbox.auth import Caller
from batchcancel.sandbox.options import SandboxOptions
from batchcancel.sandbox.wire import RefusedError, WireRequest, demand

_REQUEST_KEY = "encryptedRequest"
_RESPONSE_KEY = "encryptedResponse"


class Envelope:
    """Opens encrypted requests and closes the replies that were asked for encrypted."""

    def __init__(self, options: SandboxOptions) -> None:
        self._required = options.require_mle
        self._plain_statuses = frozenset(options.plain_statuses)
        self._encryption = None if options.keys is None else options.keys.encryption
        self._response = None if options.keys is None else options.keys.response

    def check_reply_key(self, caller: Caller) -> None:
        """Make sure that the reply can be encrypted if it is asked for.

        Raises:
            RefusedError: It is asked for with a key that is not known; 401 [A].
        """
        wanted = caller.response_key_id
        known = None if self._response is None else self._response.key_id
        demand(wanted is None or wanted == known, "unknown v-c-response-mle-kid")

    def open(self, request: WireRequest, caller: Caller) -> tuple[WireRequest, bool]:
        """Decrypt a request's body, if it is encrypted.

        Args:
            request: As it stood on the wire; its signature covers the envelope [S].
            caller: Who sent it.

        Returns:
            The request with its plain body, and whether it was encrypted.

        Raises:
            RefusedError: It is not encrypted though it has to be, or not as it has to be; 400 [A].
        """
        token = _encrypted_request(request.body)
        if token is None:
            # [S] A GET has no body, so there is nothing to encrypt.
            demand(not self._required or request.method != "POST", "not encrypted", HTTPStatus.BAD_REQUEST)
            return request, False
        # [S] the official clients refuse to combine them.
        demand(caller.by_token, "encrypted under an HTTP Signature", HTTPStatus.BAD_REQUEST)
        if self._encryption is None:
            raise RefusedError("encrypted, but there is no key to decrypt with", HTTPStatus.BAD_REQUEST)
        return replace(request, body=self._encryption.decrypt(token)), True

    def close(self, answer: Answer, caller: Caller, now_s: float) -> Answer:
        """Encrypt a reply for the caller's key, if it asked for it.

        Pages of gateways, empty bodies and statuses that are told to come plain stay as they are.
        """
        if caller.response_key_id is None or self._response is None:
            return answer
        if answer.http_status in self._plain_statuses or answer.content_type != JSON_TYPE or not answer.body:
            return answer
        body = {_RESPONSE_KEY: self._response.encrypt(answer.body, now_s)}
        return replace(answer, body=json.dumps(body).encode(), encrypted=True)


def _encrypted_request(body: bytes) -> str | None:
    """Find the compact form in a body; None if the body is a plain one.

    Raises:
        RefusedError: It has the envelope's name and is not one; 400 [A].
    """
    if _REQUEST_KEY.encode() not in body:
        return None  # nearly all, so that they don't pay for the parsing
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, dict) or _REQUEST_KEY not in parsed:
        return None
    token = parsed[_REQUEST_KEY]
    if len(parsed) != 1 or not isinstance(token, str):
        raise RefusedError("malformed encryptedRequest", HTTPStatus.BAD_REQUEST)
    return token
