"""Who signs: credentials, read from the options and from secret files."""

from __future__ import annotations

import base64
import binascii
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from batchcancel.errors import SettingsError
from batchcancel.settings.options import Options

_HEADER_TEXT: Final = re.compile(r"[\x21-\x7e]{1,128}")


class Secret:
    """Bytes that never show: not in a repr, a log line or a traceback."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Return the bytes; only the code that signs has a reason to."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


class Credentials(Struct, frozen=True, kw_only=True):
    """Who signs, and for whom, as it was given; ``api.Credentials`` are made of it by ``job``."""

    merchant_id: str
    key_id: str
    secret: Secret
    portfolio_id: str | None = None


def read_credentials(options: Options, *, sources: Mapping[str, str], warnings: list[str]) -> Credentials:
    """Gather and check the credentials.

    Args:
        options: The options as given.
        sources: Where each of them came from.
        warnings: Where sentences about lax file modes are added.

    Raises:
        SettingsError: Something is missing, malformed, or in a file that others can write.
    """
    required = {"merchant_id": options.merchant_id, "key_id": options.key_id}
    missing = ["BATCHCANCEL_" + name.upper() for name, value in required.items() if not value]
    if not options.shared_secret and not options.shared_secret_file:
        missing.append("BATCHCANCEL_SHARED_SECRET (or BATCHCANCEL_SHARED_SECRET_FILE)")
    if missing:
        raise SettingsError(
            f"Credentials are missing: set {', '.join(missing)} in the environment or in batchcancel.toml. "
            "They are made in the Business Center under Payment Configuration, Key Management."
        )
    for name in ("merchant_id", "key_id", "portfolio_id"):
        value = getattr(options, name)
        if value is not None and not _HEADER_TEXT.fullmatch(value):
            raise SettingsError(
                f"{sources[name]} is malformed: it takes 1 to 128 printable ASCII characters, no spaces."
            )
    assert options.merchant_id and options.key_id  # noqa: S101, PT018 - checked above
    return Credentials(
        merchant_id=options.merchant_id,
        key_id=options.key_id,
        secret=_read_secret(options, sources, warnings),
        portfolio_id=options.portfolio_id,
    )


def _read_secret(options: Options, sources: Mapping[str, str], warnings: list[str]) -> Secret:
    if options.shared_secret and options.shared_secret_file:
        raise SettingsError(
            "Give either the shared secret or the file that holds it, not both: "
            f"{sources['shared_secret']} and {sources['shared_secret_file']} are set."
        )
    if options.shared_secret:
        return Secret(_decode(options.shared_secret, sources["shared_secret"]))
    return Secret(_decode(_secret_text(options, warnings), sources["shared_secret_file"]))


def _secret_text(options: Options, warnings: list[str]) -> str:
    path = Path(options.shared_secret_file or "")
    warnings += check_mode(path)
    try:
        return path.read_text(encoding="ascii")
    except OSError as exc:
        reason = exc.strerror
    except UnicodeDecodeError:
        reason = "it is not ASCII text"
    # Raised out here, because the decoder's error holds what it could not decode.
    raise SettingsError(f"The secret file {path} can't be read: {reason}.")


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


def check_mode(path: Path) -> list[str]:
    """Refuse a secret's file that others can write; return a warning if they can read it."""
    try:
        mode = path.stat().st_mode
    except OSError as exc:
        raise SettingsError(f"The secret file {path} can't be read: {exc.strerror}.") from None
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        raise SettingsError(f"The secret file {path} is no file.")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(f"{path} can be written by others, so its secret can't be trusted: chmod 600 it.")
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        return [f"{path} holds a secret and can be read by others: chmod 600 it."]
    return []
