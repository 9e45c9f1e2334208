"""Who signs and how messages are encrypted: read from the options and from secret files."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct

from batchcancel.errors import SettingsError
from batchcancel.settings.checks import refuse_both
from batchcancel.settings.options import Options
from batchcancel.settings.secret_files import (
    Secret,
    check_mode,
    check_public_mode,
    read_secret_text,
    secret_in,
)
from batchcancel.settings.words import Auth, Mle

_HEADER_TEXT: Final = re.compile(r"[\x21-\x7e]{1,128}")


class SharedSecret(Struct, frozen=True, kw_only=True):
    """A shared-secret key, as it was given."""

    key_id: str
    secret: Secret


class P12File(Struct, frozen=True, kw_only=True):
    """A file with a certificate's private key; opened by ``job``."""

    path: Path
    password: Secret
    alias: str
    """The common name of the certificate that signs."""


class ResponseKeyFile(Struct, frozen=True, kw_only=True):
    """A file with the private key for encrypted replies, PEM or PKCS#12; opened by ``job``."""

    path: Path
    password: Secret | None
    key_id: str | None
    """None if the file's certificate says it."""


class Encryption(Struct, frozen=True, kw_only=True):
    """Message-level encryption: requests always, replies where there is a key for them."""

    certificate_file: Path | None
    """The service's certificate, PEM; None if it is in the P12 file that signs."""
    response_key: ResponseKeyFile | None
    """None if replies come plain."""


class Credentials(Struct, frozen=True, kw_only=True):
    """Who signs, and for whom, as it was given; what ``api`` signs with is made of it by ``job``."""

    merchant_id: str
    """The run's own merchant; the portfolio, where each row of the manifest says whose it is."""
    portfolio_id: str | None = None
    key: SharedSecret | P12File
    encryption: Encryption | None = None


def read_credentials(options: Options, *, sources: Mapping[str, str], warnings: list[str]) -> Credentials:
    """Gather and check the credentials.

    Args:
        options: The options as given.
        sources: Where each of them came from.
        warnings: Where sentences about lax file modes are added.

    Raises:
        SettingsError: Something is missing, malformed, contradictory, or in a file that others can write.
    """
    check_complete(options)
    _check_ids(options, sources)
    merchant_id = options.merchant_id if options.merchant_column is None else options.portfolio_id
    assert merchant_id  # noqa: S101 - checked above
    return Credentials(
        merchant_id=merchant_id,
        portfolio_id=options.portfolio_id,
        key=_p12_file(options, sources, warnings)
        if options.auth is Auth.P12
        else _shared_secret(options, sources, warnings),
        encryption=None if options.mle is Mle.OFF else _encryption(options, sources, warnings),
    )


def check_complete(options: Options) -> None:
    """Make sure that nothing is missing which the chosen way to sign needs.

    Raises:
        SettingsError: Something is; names the variables.
    """
    if missing := missing_credentials(options):
        raise SettingsError(
            f"Credentials are missing: set {', '.join(missing)} in the environment or in batchcancel.toml. "
            "They are made in the Business Center under Payment Configuration, Key Management."
        )


def check_given(options: Options, *, sources: Mapping[str, str], warnings: list[str]) -> None:
    """Check what there is of credentials that are not complete.

    Raises:
        SettingsError: As from ``read_credentials``, but not for what is missing.
    """
    _check_ids(options, sources)
    if options.auth is Auth.P12:
        if options.p12_file:
            warnings += check_mode(Path(options.p12_file))
        _password(options, sources, warnings, "p12_password")
    else:
        _secret(options, sources, warnings)
    if options.mle is not Mle.OFF:
        _encryption(options, sources, warnings)


def missing_credentials(options: Options) -> list[str]:
    """Return the variables of the credentials that are needed and not given."""
    # With merchants in the manifest it is a portfolio's key that signs for all of them.
    required = ["merchant_id" if options.merchant_column is None else "portfolio_id"]
    required += ["p12_file"] if options.auth is Auth.P12 else ["key_id"]
    missing = ["BATCHCANCEL_" + name.upper() for name in required if not getattr(options, name)]
    secret = "p12_password" if options.auth is Auth.P12 else "shared_secret"
    if not getattr(options, secret) and not getattr(options, f"{secret}_file"):
        variable = "BATCHCANCEL_" + secret.upper()
        missing.append(f"{variable} (or {variable}_FILE)")
    return missing


def _check_ids(options: Options, sources: Mapping[str, str]) -> None:
    for name in ("merchant_id", "key_id", "portfolio_id", "mle_response_key_id"):
        value = getattr(options, name)
        if value is not None and not _HEADER_TEXT.fullmatch(value):
            raise SettingsError(
                f"{sources[name]} is malformed: it takes 1 to 128 printable ASCII characters, no spaces."
            )


def _shared_secret(options: Options, sources: Mapping[str, str], warnings: list[str]) -> SharedSecret:
    secret = _secret(options, sources, warnings)
    assert options.key_id  # noqa: S101 - checked by the caller
    assert secret  # noqa: S101 - likewise
    return SharedSecret(key_id=options.key_id, secret=secret)


def _secret(options: Options, sources: Mapping[str, str], warnings: list[str]) -> Secret | None:
    """Read the shared secret from its option or its file; None if neither is given."""
    refuse_both(options, sources, "shared_secret", "the shared secret")
    if options.shared_secret:
        return Secret(_decode(options.shared_secret, sources["shared_secret"]))
    if options.shared_secret_file:
        path = Path(options.shared_secret_file)
        read = partial(_read_shared_secret, path, sources["shared_secret_file"])
        return secret_in(path, read, warnings)
    return None


def _read_shared_secret(path: Path, source: str, warnings: list[str]) -> bytes:
    return _decode(read_secret_text(path, warnings, encoding="ascii"), f"{source} ({path})")


def _p12_file(options: Options, sources: Mapping[str, str], warnings: list[str]) -> P12File:
    assert options.p12_file  # noqa: S101 - checked by the caller
    path = Path(options.p12_file)
    warnings += check_mode(path)
    password = _password(options, sources, warnings, "p12_password")
    assert password  # noqa: S101 - likewise
    return P12File(
        path=path,
        password=password,
        alias=options.key_alias or options.portfolio_id or options.merchant_id or "",
    )


def _encryption(options: Options, sources: Mapping[str, str], warnings: list[str]) -> Encryption:
    if options.auth is Auth.HTTP_SIGNATURE:
        raise SettingsError(
            f"{sources['mle']}: message-level encryption does not go with HTTP Signature; "
            "set BATCHCANCEL_AUTH to jwt or p12, or BATCHCANCEL_MLE to off."
        )
    if options.mle_cert_file:
        check_public_mode(Path(options.mle_cert_file))
    elif options.auth is Auth.JWT:
        raise SettingsError(
            f"{sources['mle']}: with a shared secret, the certificate that requests are encrypted for has to "
            "be named: set BATCHCANCEL_MLE_CERT_FILE."
        )
    return Encryption(
        certificate_file=Path(options.mle_cert_file) if options.mle_cert_file else None,
        response_key=_response_key(options, sources, warnings) if options.mle is Mle.BOTH else None,
    )


def _response_key(options: Options, sources: Mapping[str, str], warnings: list[str]) -> ResponseKeyFile:
    if not options.mle_response_key_file:
        raise SettingsError(
            f"{sources['mle']}: for encrypted replies a private key is needed: set "
            "BATCHCANCEL_MLE_RESPONSE_KEY_FILE, or BATCHCANCEL_MLE to request."
        )
    path = Path(options.mle_response_key_file)
    warnings += check_mode(path)
    return ResponseKeyFile(
        path=path,
        password=_password(options, sources, warnings, "mle_response_key_password"),
        key_id=options.mle_response_key_id,
    )


def _password(options: Options, sources: Mapping[str, str], warnings: list[str], name: str) -> Secret | None:
    """Read a password from an option or its file; None if neither is given."""
    refuse_both(options, sources, name, "the password")
    file: str | None = getattr(options, f"{name}_file")
    if file:
        return secret_in(Path(file), partial(_read_password, Path(file)), warnings)
    text: str | None = getattr(options, name)
    return Secret(text.encode()) if text else None


def _read_password(path: Path, warnings: list[str]) -> bytes:
    # An editor ends the line; any other white space may be the password's own.
    text = read_secret_text(path, warnings, encoding="utf-8").removesuffix("\n")
    if not text:
        raise SettingsError(f"The secret file {path} is empty.")
    return text.encode()


def _decode(text: str, source: str) -> bytes:
    try:
        secret = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not secret:
        raise SettingsError(
            f"{source}: the shared secret is not base64. Copy it again as the Business Center shows it, "
            "without quotes and with its = at the end."
        )
    return secret
