"""X.509 certificates: which one is meant, what the service knows it by, and until when it is valid."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import NameOID

from batchcancel.api.keys import Expiry
from batchcancel.errors import SettingsError


def read_key_file(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        SettingsError: It can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as exc:
        raise SettingsError(f"The key file {path} can't be read: {exc.strerror}.") from None


def certificate_named(name: str, certificates: Sequence[x509.Certificate], *, path: Path) -> x509.Certificate:
    """Return the certificate whose subject has that common name, in any case.

    Where several have it, as after a renewal, it is the one that is valid longest.

    Raises:
        SettingsError: None has it, or its key is not RSA.
    """
    found = [one for one in certificates if name.casefold() in map(str.casefold, _common_names(one))]
    if not found:
        held = ", ".join(text for one in certificates for text in _common_names(one)) or "no certificate"
        raise SettingsError(f"{path} holds no certificate for {name}; it holds {held}.")
    certificate = max(found, key=_valid_until)
    if not isinstance(certificate.public_key(), RSAPublicKey):
        raise SettingsError(f"The certificate for {name} in {path} has no RSA key, which the service needs.")
    return certificate


def key_id_of(certificate: x509.Certificate, *, path: Path) -> str:
    """Return what the service knows a certificate's key by.

    That is the serialNumber attribute of its subject (OID 2.5.4.5), not the number that its issuer gave it:
    so it is read in the official SDK.

    Raises:
        SettingsError: There is no such attribute.
    """
    for attribute in certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER):
        if isinstance(attribute.value, str) and attribute.value:
            return attribute.value
    raise SettingsError(
        f"The certificate for {', '.join(_common_names(certificate))} in {path} has no serialNumber in its "
        "subject, by which the service knows a key. Download the key again from the Business Center."
    )


def expiry_of(certificate: x509.Certificate, *, what: str, path: Path) -> Expiry:
    """Return until when a certificate is valid.

    Args:
        certificate: The certificate.
        what: What it is for, such as ``signing certificate``.
        path: Where it came from.
    """
    return Expiry(what=what, path=str(path), at=_valid_until(certificate).timestamp())


def _common_names(certificate: x509.Certificate) -> list[str]:
    attributes = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [attribute.value for attribute in attributes if isinstance(attribute.value, str)]


def _valid_until(certificate: x509.Certificate) -> datetime:
    return certificate.not_valid_after_utc
