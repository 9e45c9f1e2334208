"""The simulator's side of key pairs: certificates that verify and encrypt, the private key that decrypts.

Loads a library of cryptography, so it is imported only by whoever has such keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from batchcancel.sandbox import jwe


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningCertificate:
    """The certificate of whoever signs tokens."""

    algorithm: ClassVar[str] = "RS256"
    """[D] RS384, RS512 and PS256 to PS512 are permitted too; no official client sends them [S]."""
    key_id: str
    alias: str
    """Its owner's name, by which it is found in a P12 file [S]."""
    public_key: RSAPublicKey

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read it from PEM text.

        Raises:
            ValueError: There is no RSA certificate with a serialNumber and a name in its subject.
        """
        subject, public_key = _read_certificate(pem)
        return cls(
            key_id=_attribute(subject, NameOID.SERIAL_NUMBER),
            alias=_attribute(subject, NameOID.COMMON_NAME),
            public_key=public_key,
        )

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """Tell whether a signature is this certificate's over some bytes."""
        try:
            self.public_key.verify(signature, signed, PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionKey:
    """The key that requests are encrypted for: the service's own."""

    key_id: str
    private_key: RSAPrivateKey = field(repr=False)

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read certificate and private key from one PEM text, in either order.

        Raises:
            ValueError: One of them is missing, or they don't belong together.
        """
        subject, public_key = _read_certificate(pem)
        try:
            private_key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError):
            # Not chained: what went wrong inside could quote the key.
            raise ValueError("no private key in PEM form without a password") from None
        if private_key.public_key() != public_key or not isinstance(private_key, RSAPrivateKey):
            raise ValueError("the private key is not the certificate's")
        return cls(key_id=_attribute(subject, NameOID.SERIAL_NUMBER), private_key=private_key)

    def decrypt(self, token: str) -> bytes:
        """Decrypt a message that was encrypted for this key.

        Raises:
            RefusedError: It was not, or was touched.
        """
        return jwe.decrypt(token, self.private_key, self.key_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseCertificate:
    """The certificate that replies are encrypted for: the merchant's or the portfolio's."""

    key_id: str
    public_key: RSAPublicKey

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read it from PEM text.

        Raises:
            ValueError: There is no RSA certificate with a serialNumber in its subject.
        """
        subject, public_key = _read_certificate(pem)
        return cls(key_id=_attribute(subject, NameOID.SERIAL_NUMBER), public_key=public_key)

    def encrypt(self, plain: bytes, now_s: float) -> str:
        """Encrypt a message for this certificate's owner."""
        return jwe.encrypt(plain, self.public_key, self.key_id, int(now_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxKeys:
    """Every key pair that the simulator knows; None: it can't do what that one is for."""

    signing: SigningCertificate | None = None
    encryption: EncryptionKey | None = None
    response: ResponseCertificate | None = None


def read_keys(
    *, signing: Path | None = None, encryption: Path | None = None, response: Path | None = None
) -> SandboxKeys:
    """Read key pairs from PEM files.

    Args:
        signing: The certificate of whoever signs tokens.
        encryption: The service's certificate for encryption, and its private key.
        response: The certificate that replies are encrypted for.

    Raises:
        OSError: A file can't be read.
        ValueError: A file does not hold what it should; the message names the file.
    """
    return SandboxKeys(
        signing=None if signing is None else _read(signing, SigningCertificate),
        encryption=None if encryption is None else _read(encryption, EncryptionKey),
        response=None if response is None else _read(response, ResponseCertificate),
    )


_Pair = TypeVar("_Pair", SigningCertificate, EncryptionKey, ResponseCertificate)


def _read(path: Path, kind: type[_Pair]) -> _Pair:
    try:
        return kind.from_pem(path.read_bytes())
    except ValueError as exc:
        raise ValueError(f"{path}: {exc}.") from None


def _read_certificate(pem: bytes) -> tuple[x509.Name, RSAPublicKey]:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError:
        # Not chained: what went wrong inside could quote the file.
        raise ValueError("no certificate in PEM form") from None
    public_key = certificate.public_key()
    if not isinstance(public_key, RSAPublicKey):
        raise ValueError("the certificate's key is not RSA")  # noqa: TRY004 - the file is wrong, no argument
    return certificate.subject, public_key


def _attribute(subject: x509.Name, oid: x509.ObjectIdentifier) -> str:
    # [S] A key's id is the subject's serialNumber, which is not the certificate's own serial number.
    attributes = subject.get_attributes_for_oid(oid)
    if not attributes:
        raise ValueError(f"the certificate's subject has no {oid.dotted_string}")
    return str(attributes[0].value)
