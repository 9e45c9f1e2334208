"""X.509 certificates: which one is meant, what the service knows it by, and until when it is valid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509
from cryptography.x509.oid import NameOID

from batchcancel.api.keys import Expiry
from batchcancel.errors import SettingsError

T = TypeVar("T")

_MAX_FILE_BYTES: Final = 1 << 20
_LIBRARIES: Final = frozenset({"cryptography", "joserfc", "pyo3_runtime"})
"""Whose errors are about what a file holds; the last one is where panics of Rust code come from."""


def read_key_file(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        SettingsError: It can't be read, or is longer than any file of keys.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise SettingsError(f"The key file {path} can't be read: {exc.strerror}.") from None
    if len(content) > _MAX_FILE_BYTES:
        raise SettingsError(f"{path} is no file of keys: it is longer than 1 MiB.")
    return content


def parsed(path: Path, parse: Callable[[], T]) -> T:
    """Return what a file of keys holds, or say in one sentence that it is damaged.

    The library reads parts of a certificate when they are first asked for, and its errors have no root in
    common. None of them may end a run whose key file was changed.

    Args:
        path: The file, for the sentence.
        parse: Asks for every part that will be used.

    Raises:
        SettingsError: What ``parse`` raised, or that the file is damaged.
    """
    try:
        return parse()
    except BaseException as exc:
        if (
            not isinstance(exc, ValueError | TypeError)
            and type(exc).__module__.split(".")[0] not in _LIBRARIES
        ):
            raise
    # Raised out here, because the library's error may hold some of what it could not read.
    raise SettingsError(
        f"{path} can't be used: a key or certificate in it is damaged, or of a kind that is not supported."
    )


def certificates_named(
    name: str, certificates: Sequence[x509.Certificate], *, path: Path
) -> list[x509.Certificate]:
    """Return the certificates whose subject has that common name, in any case; one at least.

    Raises:
        SettingsError: None has it.
    """
    found = [one for one in certificates if name.casefold() in map(str.casefold, _common_names(one))]
    if not found:
        held = [text for one in certificates for text in _common_names(one)]
        # A file may be anybody's, and its names go to a terminal.
        shown = ", ".join(text if text.isprintable() else ascii(text) for text in held) or "no certificate"
        raise SettingsError(f"{path} holds no certificate for {name}; it holds {shown}.")
    return found


def longest_valid(certificates: Sequence[x509.Certificate]) -> x509.Certificate:
    """Return the certificate that is valid longest: after a renewal a file may hold the old one too."""
    return max(certificates, key=_valid_until)


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
