"""Settings in, keys out: what signs, what encrypts, and until when each is valid."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from batchcancel.api import (
    Expiry,
    HttpSignatureSigner,
    Identity,
    JwtKey,
    JwtSigner,
    KeyFile,
    KeyFiles,
    SharedSecret,
    Signer,
)
from batchcancel.errors import SettingsError
from batchcancel.settings import Auth, Credentials, Settings
from batchcancel.settings import SharedSecret as SharedSecretGiven

if TYPE_CHECKING:  # its libraries take a while to load, and most runs need none of them
    from batchcancel.api.encryption import MessageEncryption


class Keys(Struct, frozen=True, kw_only=True):
    """All that a client needs to be believed, and understood."""

    identity: Identity
    signer: Signer
    encryption: MessageEncryption | None = None
    files: KeyFiles
    expiries: tuple[Expiry, ...] = ()


def load_keys(settings: Settings) -> Keys:
    """Read every file of keys, once; the simulator in this process has a made-up secret.

    Raises:
        SettingsError: A file can't be used; it is named, and nothing of what it holds is shown.
    """
    given = settings.credentials
    if given is None:
        return _simulated(settings.options.auth)
    try:
        return _load(given, settings.options.auth)
    except SettingsError as exc:
        # Some tools print the variables of a traceback's frames, and down there these are secret.
        raise exc.with_traceback(None) from None


def _load(given: Credentials, auth: Auth) -> Keys:
    identity = Identity(merchant_id=given.merchant_id, portfolio_id=given.portfolio_id)
    if not isinstance(given.key, SharedSecretGiven):
        return _certified(given, identity, None)
    secret = _secret_file(given.key)
    if given.encryption is not None:
        return _certified(given, identity, secret)
    return _of_secret(auth, identity, secret)


def _secret_file(given: SharedSecretGiven) -> KeyFile[SharedSecret]:
    file = given.secret.file
    return KeyFile(
        [] if file is None else [file],
        lambda: SharedSecret(key_id=given.key_id, secret=given.secret.read_again()),
    )


def _certified(given: Credentials, identity: Identity, secret: KeyFile[SharedSecret] | None) -> Keys:
    from batchcancel.job.certified import load_certificates  # noqa: PLC0415 - slow, see above

    found = load_certificates(given)
    key: Callable[[], JwtKey] | None = found.signing_key if secret is None else secret.current
    assert key is not None  # noqa: S101 - a P12 file signs where no secret does
    return Keys(
        identity=identity,
        signer=JwtSigner(identity, key=key, response_key_id=found.response_key_id),
        encryption=found.encryption,
        files=KeyFiles(found.files if secret is None else (secret, *found.files)),
        expiries=found.expiries,
    )


def _of_secret(auth: Auth, identity: Identity, secret: KeyFile[SharedSecret]) -> Keys:
    signer: Signer
    if auth is Auth.HTTP_SIGNATURE:
        signer = HttpSignatureSigner(identity, key=secret.current)
    else:
        signer = JwtSigner(identity, key=secret.current)
    return Keys(identity=identity, signer=signer, files=KeyFiles([secret]))


def _simulated(auth: Auth) -> Keys:
    from batchcancel import sandbox  # noqa: PLC0415 - only where it is used

    secret = SharedSecret(key_id=sandbox.SANDBOX_KEY_ID, secret=base64.b64decode(sandbox.SANDBOX_SECRET))
    return _of_secret(auth, Identity(merchant_id=sandbox.SANDBOX_MERCHANT_ID), KeyFile([], lambda: secret))
