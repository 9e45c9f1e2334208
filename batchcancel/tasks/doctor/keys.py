"""The secret and the files of keys: their shape, their modes, and until when they are valid."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from batchcancel.api.connections import tls_context
from batchcancel.errors import SettingsError
from batchcancel.job.keys import load_keys
from batchcancel.settings import Auth, Options, P12File, Settings
from batchcancel.settings.secret_files import check_mode, check_public_mode
from batchcancel.tasks.doctor.checks import Check, fail, ok, skip, warn
from batchcancel.tasks.doctor.secret_shape import problem_of, shape_of

_DAY_S: Final = 86_400
_SECRET_FILES: Final = (
    "shared_secret_file",
    "p12_file",
    "p12_password_file",
    "mle_response_key_file",
    "mle_response_key_password_file",
)
_COPY_AGAIN: Final = (
    "Copy it again as the Business Center shows it, without quotes and with its = at the end; it is shown "
    "once, so a new key may have to be made."
)


def check_secret(options: Options) -> Check:
    """Look at the shape of the shared secret; nothing of it is told."""
    if options.auth is Auth.P12:
        return skip("secret", "a certificate signs")
    if options.shared_secret_file and Path(options.shared_secret_file).is_fifo():
        return skip("secret", "it comes from a pipe, which gives it once")
    try:
        text = _secret_text(options)
    except OSError as exc:
        return fail("secret", f"The secret file {options.shared_secret_file} can't be read: {exc.strerror}.")
    except UnicodeDecodeError:
        text = None
    if not text:
        return fail("secret", f"The secret file {options.shared_secret_file} holds no text.", _COPY_AGAIN)
    if (problem := problem_of(text)) is not None:
        return fail("secret", f"The shared secret is not base64: {problem}.", _COPY_AGAIN)
    shape, unusual = shape_of(text)
    return ok("secret", shape) if unusual is None else warn("secret", shape, unusual)


def _secret_text(options: Options) -> str:
    if options.shared_secret:
        return options.shared_secret
    return Path(options.shared_secret_file or "").read_text(encoding="ascii")


def check_modes(options: Options) -> Iterator[Check]:
    """Look at who else may read or write the files of secrets and keys."""
    named = [Path(path) for name in _SECRET_FILES if (path := getattr(options, name))]
    fine = 0
    for path in named:
        try:
            lax = check_mode(path)
        except SettingsError as exc:
            yield fail("file modes", str(exc))
            continue
        fine += not lax
        for warning in lax:
            yield warn("file modes", warning)
    if options.mle_cert_file:
        try:
            check_public_mode(Path(options.mle_cert_file))
            fine += 1
        except SettingsError as exc:
            yield fail("file modes", str(exc))
    if fine:
        yield ok("file modes", "1 file as it should be" if fine == 1 else f"{fine} files as they should be")
    elif not named and not options.mle_cert_file:
        yield skip("file modes", "no file of a secret or a key is named")


def check_key_files(settings: Settings, *, now: Callable[[], float] = time.time) -> Iterator[Check]:
    """Open the files of keys, and tell until when their certificates are valid.

    Args:
        settings: What a run would use.
        now: Unix seconds.
    """
    try:
        expiries = load_keys(settings).expiries
    except SettingsError as exc:
        yield fail("key files", str(exc))
        return
    if not expiries:
        yield skip("key files", "no certificate is used")
    for expiry in expiries:
        # An expired one is no failure here: the service has the last word, and the signed read asks for it.
        if (warning := expiry.warning(now())) is not None:
            yield warn("key files", warning)
        else:
            days = int((expiry.at - now()) // _DAY_S)
            whose = _alias_of(settings) if expiry.what == "signing certificate" else ""
            yield ok("key files", f"{expiry.what}{whose} in {expiry.path}, {days} days left ({expiry.date})")


def check_roots(options: Options) -> Iterator[Check]:
    """See whether the private roots can be used, where any are named."""
    if not options.ca_file:
        return
    try:
        tls_context(Path(options.ca_file))
    except SettingsError as exc:
        yield fail("roots", str(exc))
    else:
        yield ok("roots", f"those in {options.ca_file} are trusted besides the system's")


def _alias_of(settings: Settings) -> str:
    given = settings.credentials
    return f" for {given.key.alias}" if given is not None and isinstance(given.key, P12File) else ""
