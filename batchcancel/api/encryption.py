"""Message-level encryption: requests for the service's eyes, and replies for ours.

The JOSE library is joserfc: maintained, typed, with a list of allowed algorithms and limits on size, and
2.6 times as fast at encrypting as jwcrypto, 1.4 times at decrypting. A request costs 0.1 ms, most of it
Python, and is encrypted in place; a reply costs an RSA private operation and belongs in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc import jwe
from joserfc.jwk import RSAKey
from joserfc.registry import HeaderParameter
from msgspec import Struct

from batchcancel.api.certificates import certificates_named, expiry_of, key_id_of, longest_valid
from batchcancel.api.envelope import wrap_request
from batchcancel.api.keys import Expiry
from batchcancel.api.p12 import own_certificate, parse_p12
from batchcancel.errors import SettingsError

SERVICE_NAME: Final = "CyberSource_SJC_US"
"""The common name of the certificate that requests are encrypted for."""
_ALGORITHM: Final = "RSA-OAEP-256"
_ENCRYPTION: Final = "A256GCM"
_MIN_KEY_BITS: Final = 2048
"""The shortest RSA key that the standard allows here (RFC 7518, 4.3); the library refuses to use another."""


class _Registry(jwe.JWERegistry):
    """Allow what is documented, and a body as long as the client reads."""

    max_ciphertext_length = 1 << 20


_SENT: Final = _Registry(
    algorithms=[_ALGORITHM, _ENCRYPTION],
    header_registry={"iat": HeaderParameter("Issued At", "int")},
)
# The service may send RSA-OAEP too (its SDK reads it), and header fields that nobody listed. Compression
# and passwords, whose cost the sender chooses, are not among the algorithms.
_RECEIVED: Final = _Registry(algorithms=[_ALGORITHM, "RSA-OAEP", _ENCRYPTION], strict_check_header=False)


class EncryptionKey(Struct, frozen=True, kw_only=True):
    """The service's public key, known to it by its certificate."""

    key_id: str
    public_key: RSAKey
    expiry: Expiry


class ResponseKey(Struct, frozen=True, kw_only=True):
    """The private key that the service encrypts replies for."""

    key_id: str
    private_key: RSAKey
    expiry: Expiry | None
    """None if the file holds no certificate."""

    def __repr__(self) -> str:
        return f"ResponseKey(key_id={self.key_id!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return what a representation may show; rich asks here, not in ``__repr__``."""
        return [("key_id", self.key_id)]


class MessageEncryption:
    """Encrypt requests, and decrypt replies where that was asked for.

    Args:
        service_key: Gives the service's key of the moment.
        response_keys: Gives the keys for replies, the present one first: a reply may have been asked for
            before the key changed. None if they come plain.
    """

    def __init__(
        self,
        *,
        service_key: Callable[[], EncryptionKey],
        response_keys: Callable[[], Sequence[ResponseKey]] | None = None,
    ) -> None:
        self._service_key = service_key
        self._response_keys = response_keys

    @property
    def decrypts(self) -> bool:
        """Whether there is a key for replies."""
        return self._response_keys is not None

    def encrypt(self, body: bytes, *, now: float) -> bytes:
        """Return the body to send instead: an object that holds the encrypted one.

        Args:
            body: The plain body.
            now: Unix seconds on the service's clock.
        """
        key = self._service_key()
        header = {"alg": _ALGORITHM, "enc": _ENCRYPTION, "kid": key.key_id, "iat": int(now)}
        return wrap_request(jwe.encrypt_compact(header, body, key.public_key, registry=_SENT))

    def decrypt(self, token: str) -> bytes | None:
        """Return what an encrypted reply says; None if it can't be decrypted. Never raises."""
        keys = () if self._response_keys is None else self._response_keys()
        return next((plain for key in keys if (plain := _decrypted(token, key)) is not None), None)


def _decrypted(token: str, key: ResponseKey) -> bytes | None:
    try:
        return jwe.decrypt_compact(token, key.private_key, registry=_RECEIVED).plaintext
    except Exception:  # noqa: BLE001 - whatever a hostile token makes the library raise: it can't be read
        return None


def encryption_key(certificates: tuple[x509.Certificate, ...], *, path: Path) -> EncryptionKey:
    """Return the service's key among certificates.

    Raises:
        SettingsError: Its certificate is not there or has no id, or its key is too short or not RSA.
    """
    certificate = longest_valid(certificates_named(SERVICE_NAME, certificates, path=path))
    public_key = certificate.public_key()
    if not isinstance(public_key, RSAPublicKey):
        raise SettingsError(
            f"The certificate for {SERVICE_NAME} in {path} has no RSA key, which the service needs."
        )
    _check_length(public_key, path=path)
    return EncryptionKey(
        key_id=key_id_of(certificate, path=path),
        public_key=RSAKey.import_key(public_key),
        expiry=expiry_of(certificate, what="encryption certificate", path=path),
    )


def parse_certificates(content: bytes, *, path: Path) -> tuple[x509.Certificate, ...]:
    """Parse a PEM file of certificates.

    Raises:
        SettingsError: It is none.
    """
    try:
        return tuple(x509.load_pem_x509_certificates(content))
    except ValueError:
        raise SettingsError(f"{path} holds no certificate in PEM form.") from None


def parse_response_key(
    content: bytes, *, password: bytes | None, key_id: str | None, path: Path
) -> ResponseKey:
    """Parse the private key for replies, of a PEM or a PKCS#12 file.

    Args:
        content: The file's bytes.
        password: The file's password; None if it has none.
        key_id: What the service knows the key by; None takes it from the certificate in a PKCS#12 file.
        path: Where it came from, for errors.

    Raises:
        SettingsError: It is no such file, the password is wrong or missing, the key is too short, or
            its id is not known.
    """
    if b"-----BEGIN " in content:
        certificate, private_key = None, _pem_key(content, password, path)
    else:
        p12 = parse_p12(content, password=password or b"", path=path)
        certificate, private_key = own_certificate(p12), p12.private_key
    _check_length(private_key, path=path)
    if key_id is None:
        if certificate is None:
            raise SettingsError(
                f"{path} does not say what the service knows its key by: set BATCHCANCEL_MLE_RESPONSE_KEY_ID."
            )
        key_id = key_id_of(certificate, path=path)
    what = "response key's certificate"
    return ResponseKey(
        key_id=key_id,
        private_key=RSAKey.import_key(private_key),
        expiry=None if certificate is None else expiry_of(certificate, what=what, path=path),
    )


def _check_length(key: RSAPublicKey | RSAPrivateKey, *, path: Path) -> None:
    """Refuse a key now that would fail with the first message."""
    if key.key_size < _MIN_KEY_BITS:
        raise SettingsError(
            f"The RSA key in {path} has {key.key_size} bits; for encryption it takes {_MIN_KEY_BITS:,} at "
            "least."
        )


def _pem_key(content: bytes, password: bytes | None, path: Path) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(content, password)
    # TypeError: a password is missing, or there is one and the key is not encrypted. Nothing of the file
    # shows, so what was raised is not passed on.
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise SettingsError(
            f"{path} can't be opened: it holds no private RSA key in PEM form, or its password is another "
            "one."
        )
    return key
