"""Find out who sent a request: by JWT v2, or by HTTP Signature.

Written from the service's documents alone, apart from the client's signing code, so that both have to
be right for a request to pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from batchcancel.sandbox.options import SandboxOptions
from batchcancel.sandbox.signatures import SignatureVerifier
from batchcancel.sandbox.tokens import SharedSecret, TokenKey, TokenVerifier
from batchcancel.sandbox.wire import RefusedError, WireRequest, demand


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who sent a request that is signed as it should be."""

    merchant_id: str
    """The merchant that transacts, whose invoices are meant."""
    scheme: str
    """How it was signed: ``HS256``, ``RS256`` or ``http_signature``."""
    response_key_id: str | None = None
    """The key to encrypt the reply for; None: the reply is plain."""

    @property
    def by_token(self) -> bool:
        """Whether it was signed by a token; only then may anything be encrypted [S]."""
        return self.scheme != "http_signature"


class Authenticator:
    """Checks requests against the keys of one signer and remembers the token ids that were used."""

    def __init__(self, options: SandboxOptions) -> None:
        keys: dict[str, TokenKey] = {options.key_id: SharedSecret(options.secret_bytes)}
        if options.keys is not None and options.keys.signing is not None:
            keys[options.keys.signing.key_id] = options.keys.signing
        self._tokens = TokenVerifier(keys, options)
        self._signatures = SignatureVerifier(options)
        self._merchant_ids = {options.merchant_id, *options.merchants}
        # [A] Whose signature is good but who may not act for a merchant is forbidden to; a merchant
        # that signs for itself in another's name is not who it says.
        self._wrong_merchant = (
            HTTPStatus.UNAUTHORIZED if options.portfolio_id is None else HTTPStatus.FORBIDDEN
        )

    def identify(self, request: WireRequest, now_s: float) -> Caller:
        """Check a request's signature and remember its token id.

        Args:
            request: As it stood on the wire.
            now_s: The service's clock, Unix seconds.

        Raises:
            RefusedError: It is not signed as it should be (401), or for a merchant that is not in the
                portfolio (403).
        """
        authorization = request.headers.get("Authorization")
        signature = request.headers.get("Signature")
        if authorization is not None:
            scheme, _, token = authorization.partition(" ")
            demand(scheme.lower() == "bearer", "not a bearer token")
            facts = self._tokens.check(request, token, now_s)
            caller = Caller(
                merchant_id=facts.merchant_id,
                scheme=facts.algorithm,
                response_key_id=facts.response_key_id,
            )
        elif signature is not None:
            merchant_id = self._signatures.check(request, signature, now_s)
            caller = Caller(merchant_id=merchant_id, scheme="http_signature")
        else:
            raise RefusedError("no credentials")
        demand(caller.merchant_id in self._merchant_ids, "wrong v-c-merchant-id", self._wrong_merchant)
        return caller
