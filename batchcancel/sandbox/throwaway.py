"""Make throwaway key pairs in the files that the service's customers have, and those of its own.

Loads a library of cryptography, so it is imported only where keys are made.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from batchcancel.sandbox.keys import SandboxKeys, read_keys

_ENCRYPTION_NAME: Final = "CyberSource_SJC_US"  # [S] also in real files
_LIFE: Final = timedelta(days=3 * 365)  # [D] of keys for message-level encryption


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrowawayKeys:
    """A folder of keys that open nothing but the simulator."""

    folder: Path

    @property
    def signing_p12(self) -> Path:
        """For the client: its key to sign with, the certificate to encrypt for, a CA's certificate [S]."""
        return self.folder / "signing.p12"

    @property
    def encryption_certificate(self) -> Path:
        """For the client: the certificate to encrypt for, as PEM."""
        return self.folder / "encryption-certificate.pem"

    @property
    def response_p12(self) -> Path:
        """For the client: its key to decrypt replies with, and the certificates as above [S]."""
        return self.folder / "response-mle.p12"

    @property
    def password_file(self) -> Path:
        """For the client: the password of both P12 files."""
        return self.folder / "password"

    @property
    def signing_certificate(self) -> Path:
        """For the simulator: the certificate of whoever signs."""
        return self.folder / "signing-certificate.pem"

    @property
    def encryption_key(self) -> Path:
        """For the simulator: certificate and private key for encrypted requests."""
        return self.folder / "encryption-key.pem"

    @property
    def response_certificate(self) -> Path:
        """For the simulator: the certificate that replies are encrypted for."""
        return self.folder / "response-mle-certificate.pem"

    def read(self) -> SandboxKeys:
        """Read the simulator's side.

        Raises:
            OSError: A file can't be read.
            ValueError: A file does not hold what it should.
        """
        return read_keys(
            signing=self.signing_certificate,
            encryption=self.encryption_key,
            response=self.response_certificate,
        )


def keys_in(folder: Path, signer_id: str) -> ThrowawayKeys:
    """Take the keys in a folder; make them first if it has none.

    Every file is readable by its owner only.

    Args:
        folder: Made if it is missing.
        signer_id: Who signs: the merchant, or its portfolio; the alias in the P12 file [S].

    Raises:
        OSError: The folder can't be written, or holds some of the files and not all.
    """
    keys = ThrowawayKeys(folder=folder)
    if not keys.signing_p12.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(keys, signer_id)
    return keys


@dataclass(frozen=True, slots=True)
class _Pair:
    private_key: rsa.RSAPrivateKey
    certificate: x509.Certificate

    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def private_key_pem(self) -> bytes:
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class _Authority:
    """A CA that lives as long as it takes to sign a few certificates."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("batchcancel throwaway CA")
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        self.certificate = (
            self._builder(self._name)
            .public_key(self._key.public_key())
            .add_extension(constraints, critical=True)
            .sign(self._key, SHA256())
        )

    def issue(self, common_name: str) -> _Pair:
        """Make a key pair and its certificate."""
        private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        builder = self._builder(_name(common_name)).public_key(private_key.public_key())
        return _Pair(private_key, builder.sign(self._key, SHA256()))

    def _builder(self, subject: x509.Name) -> x509.CertificateBuilder:
        # An hour ago: the clock of whoever reads it may be a little behind.
        start = datetime.now(UTC) - timedelta(hours=1)
        return (
            x509.CertificateBuilder(subject_name=subject, issuer_name=self._name)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + _LIFE)
        )


def _make(keys: ThrowawayKeys, signer_id: str) -> None:
    authority = _Authority()
    signing, encryption = authority.issue(signer_id), authority.issue(_ENCRYPTION_NAME)
    response = authority.issue(signer_id)
    password = secrets.token_urlsafe(16)
    others = [encryption.certificate, authority.certificate]

    def p12(pair: _Pair) -> bytes:
        envelope = BestAvailableEncryption(password.encode())
        return pkcs12.serialize_key_and_certificates(
            signer_id.encode(), pair.private_key, pair.certificate, others, envelope
        )

    files = {
        keys.password_file: f"{password}\n".encode(),
        keys.encryption_certificate: encryption.certificate_pem(),
        keys.encryption_key: encryption.private_key_pem() + encryption.certificate_pem(),
        keys.response_certificate: response.certificate_pem(),
        keys.response_p12: p12(response),
        keys.signing_certificate: signing.certificate_pem(),
        keys.signing_p12: p12(signing),  # the last one, for it says that all are there
    }
    for path, content in files.items():
        _write(path, content)


def _write(path: Path, content: bytes) -> None:
    """Write a new file for its owner only; what is there already is never overwritten."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
        file.write(content)


def _name(common_name: str) -> x509.Name:
    # [S] The key's id is this attribute, and not the certificate's own serial number.
    serial = str(10**21 + secrets.randbelow(9 * 10**21))
    return x509.Name(
        [
            x509.NameAttribute(NameOID.SERIAL_NUMBER, serial),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
