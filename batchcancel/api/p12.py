"""PKCS#12 files as the Business Center makes them: a private key and its certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import pkcs12
from msgspec import Struct

from batchcancel.api.certificates import certificates_named, expiry_of, key_id_of, longest_valid
from batchcancel.api.keys import Expiry
from batchcancel.errors import SettingsError


class P12(Struct, frozen=True, kw_only=True):
    """What a file holds: a private key, and certificates of which one may be the key's own."""

    path: Path
    private_key: RSAPrivateKey
    certificates: tuple[x509.Certificate, ...]


class CertificateKey(Struct, frozen=True, kw_only=True):
    """A private key that signs tokens, known to the service by its certificate."""

    key_id: str
    private_key: RSAPrivateKey
    expiry: Expiry
    algorithm: ClassVar[str] = "RS256"
    is_slow: ClassVar[bool] = True
    """Some 0.5 ms of one core; other threads run meanwhile."""

    def sign(self, data: bytes) -> bytes:
        """Return the RSA signature with SHA-256, PKCS #1 v1.5."""
        return self.private_key.sign(data, PKCS1v15(), SHA256())

    def __repr__(self) -> str:
        return f"CertificateKey(key_id={self.key_id!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return what a representation may show; rich asks here, not in ``__repr__``."""
        return [("key_id", self.key_id)]


def parse_p12(content: bytes, *, password: bytes, path: Path) -> P12:
    """Decrypt and parse a file, of the old envelope (RC2 or 3DES) or the new one (AES-256).

    It takes some 60 ms of CPU time, for passwords are made slow to guess.

    Args:
        content: The file's bytes.
        password: The file's password, UTF-8.
        path: Where it came from, for errors.

    Raises:
        SettingsError: It is no PKCS#12 file, the password is wrong, or there is no RSA key in it.
    """
    parsed = _decrypted(content, password)
    if parsed is None:
        raise SettingsError(
            f"{path} can't be opened: its password is another one, or it is no PKCS#12 file. Files made "
            "before March 2024 have the merchant id as their password."
        )
    if not isinstance(parsed.key, RSAPrivateKey):
        raise SettingsError(f"{path} holds no private RSA key; download it again from the Business Center.")
    entries = [parsed.cert, *parsed.additional_certs]
    return P12(
        path=path,
        private_key=parsed.key,
        certificates=tuple(entry.certificate for entry in entries if entry is not None),
    )


def signing_key(p12: P12, *, alias: str) -> CertificateKey:
    """Return the key that signs for an alias.

    Args:
        p12: The file's content.
        alias: The common name of the certificate's subject, in any case.

    Raises:
        SettingsError: There is no certificate for the alias, it is another key's, or it has no id.
    """
    named = certificates_named(alias, p12.certificates, path=p12.path)
    own = [one for one in named if _is_of(one, p12.private_key)]
    if not own:
        raise SettingsError(
            f"The certificate for {alias} in {p12.path} is not that of the private key there. Of a file "
            "with several keys only the first one is read: give this key a file of its own."
        )
    certificate = longest_valid(own)
    return CertificateKey(
        key_id=key_id_of(certificate, path=p12.path),
        private_key=p12.private_key,
        expiry=expiry_of(certificate, what="signing certificate", path=p12.path),
    )


def own_certificate(p12: P12) -> x509.Certificate | None:
    """Return the certificate of the private key itself; None if there is none."""
    return next((one for one in p12.certificates if _is_of(one, p12.private_key)), None)


def _is_of(certificate: x509.Certificate, private_key: RSAPrivateKey) -> bool:
    try:
        return certificate.public_key() == private_key.public_key()
    # An authority's key may be of a kind that the library does not know.
    except (ValueError, UnsupportedAlgorithm):
        return False


def _decrypted(content: bytes, password: bytes) -> pkcs12.PKCS12KeyAndCertificates | None:
    try:
        return pkcs12.load_pkcs12(content, password)
    # TypeError: a password that is no UTF-8. What was raised is not passed on: nothing of the file shows.
    except (ValueError, TypeError):
        return None
