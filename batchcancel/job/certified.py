"""Keys that come with certificates: a P12 file that signs, and message-level encryption."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from msgspec import Struct

from batchcancel.api import Expiry, KeyFile
from batchcancel.api.certificates import parsed, read_key_file
from batchcancel.api.encryption import (
    EncryptionKey,
    MessageEncryption,
    ResponseKey,
    encryption_key,
    parse_certificates,
    parse_response_key,
)
from batchcancel.api.p12 import CertificateKey, parse_p12, signing_key
from batchcancel.settings import Credentials, P12File, ResponseKeyFile, Secret
from batchcancel.settings.secret_files import check_mode, check_public_mode


class Certified(Struct, frozen=True, kw_only=True):
    """What the files hold that some credentials name."""

    signing_key: Callable[[], CertificateKey] | None
    """None if a shared secret signs."""
    encryption: MessageEncryption | None
    response_key_id: Callable[[], str] | None
    """None if replies come plain."""
    files: tuple[KeyFile[object], ...]
    expiries: tuple[Expiry, ...]


class _SigningFile(Struct, frozen=True, kw_only=True):
    """What is used of a P12 file."""

    signing_key: CertificateKey
    service_key: EncryptionKey | None
    """What requests are encrypted for; None if it is not taken from this file."""


def load_certificates(given: Credentials) -> Certified:
    """Read every file that some credentials name; each is parsed once.

    Raises:
        SettingsError: A file can't be used; it is named, and nothing of what it holds is shown.
    """
    encryption = given.encryption
    signing: KeyFile[_SigningFile] | None = None
    service: KeyFile[EncryptionKey] | None = None
    response: KeyFile[ResponseKey] | None = None
    if isinstance(given.key, P12File):
        wants_service_key = encryption is not None and encryption.certificate_file is None
        read = partial(_read_p12, given.key, wants_service_key=wants_service_key)
        signing = KeyFile(_files_of(given.key.path, given.key.password), read)
    if encryption is not None and (path := encryption.certificate_file) is not None:
        service = KeyFile([path], partial(_read_service_key, path))
    if encryption is not None and (file := encryption.response_key) is not None:
        response = KeyFile(_files_of(file.path, file.password), partial(_read_response_key, file))

    def service_key() -> EncryptionKey:
        key = service.current() if service else signing.current().service_key if signing else None
        assert key is not None  # noqa: S101 - settings ask for the one file or the other
        return key

    return Certified(
        signing_key=None if signing is None else lambda: signing.current().signing_key,
        encryption=None
        if encryption is None
        else MessageEncryption(service_key=service_key, response_keys=response.recent if response else None),
        response_key_id=None if response is None else lambda: response.current().key_id,
        files=tuple(file for file in (signing, service, response) if file is not None),
        expiries=tuple(
            expiry
            for expiry in (
                signing.current().signing_key.expiry if signing else None,
                service_key().expiry if encryption else None,
                response.current().expiry if response else None,
            )
            if expiry is not None
        ),
    )


def _files_of(path: Path, password: Secret | None) -> list[Path]:
    """Return a key's file, and that of its password if it has one."""
    return [path] if password is None or password.file is None else [path, password.file]


def _read_p12(given: P12File, *, wants_service_key: bool) -> _SigningFile:
    check_mode(given.path)
    content = read_key_file(given.path)
    password = given.password.read_again()

    def parse() -> _SigningFile:
        p12 = parse_p12(content, password=password, path=given.path)
        return _SigningFile(
            signing_key=signing_key(p12, alias=given.alias),
            service_key=encryption_key(p12.certificates, path=given.path) if wants_service_key else None,
        )

    return parsed(given.path, parse)


def _read_service_key(path: Path) -> EncryptionKey:
    check_public_mode(path)
    content = read_key_file(path)
    return parsed(path, lambda: encryption_key(parse_certificates(content, path=path), path=path))


def _read_response_key(given: ResponseKeyFile) -> ResponseKey:
    check_mode(given.path)
    content = read_key_file(given.path)
    password = given.password.read_again() if given.password else None
    return parsed(
        given.path,
        lambda: parse_response_key(content, password=password, key_id=given.key_id, path=given.path),
    )
