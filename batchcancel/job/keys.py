"""Settings in, keys out: what signs, what encrypts, and until when each is valid."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
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
from batchcancel.settings import Auth, Credentials, Options, Settings
from batchcancel.settings import SharedSecret as SharedSecretGiven

if TYPE_CHECKING:  # its libraries take a while to load, and most runs need none of them
    from batchcancel.api.encryption import MessageEncryption


class Keys(Struct, frozen=True, kw_only=True):
    """All that a client needs to be believed, and understood."""

    identity: Identity
    """The run's own merchant."""
    sign_as: Callable[[Identity], Signer]
    encryption: MessageEncryption | None = None
    files: KeyFiles
    expiries: tuple[Expiry, ...] = ()

    @property
    def signer(self) -> Signer:
        """What signs for the run's own merchant."""
        return self.sign_as(self.identity)

    def signer_for(self, merchant_id: str | None) -> Signer:
        """Return what signs for a merchant; None is the run's own."""
        if merchant_id is None:
            return self.signer
        return self.sign_as(Identity(merchant_id=merchant_id, portfolio_id=self.identity.portfolio_id))


def load_keys(settings: Settings) -> Keys:
    """Read every file of keys, once; the simulator in this process has a made-up secret.

    Raises:
        SettingsError: A file can't be used; it is named, and nothing of what it holds is shown.
    """
    given = settings.credentials
    if given is None:
        return _simulated(settings.options)
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
        sign_as=partial(JwtSigner, key=key, response_key_id=found.response_key_id),
        encryption=found.encryption,
        files=KeyFiles(found.files if secret is None else (secret, *found.files)),
        expiries=found.expiries,
    )


def _of_secret(auth: Auth, identity: Identity, secret: KeyFile[SharedSecret]) -> Keys:
    sign_as: Callable[[Identity], Signer]
    if auth is Auth.HTTP_SIGNATURE:
        sign_as = partial(HttpSignatureSigner, key=secret.current)
    else:
        sign_as = partial(JwtSigner, key=secret.current)
    return Keys(identity=identity, sign_as=sign_as, files=KeyFiles([secret]))


def _simulated(options: Options) -> Keys:
    from batchcancel import sandbox  # noqa: PLC0415 - only where it is used

    identity = Identity(merchant_id=sandbox.SANDBOX_MERCHANT_ID)
    if options.merchant_column is not None:
        portfolio_id = sandbox.SANDBOX_PORTFOLIO_ID
        identity = Identity(merchant_id=portfolio_id, portfolio_id=portfolio_id)
    secret = SharedSecret(key_id=sandbox.SANDBOX_KEY_ID, secret=base64.b64decode(sandbox.SANDBOX_SECRET))
    return _of_secret(options.auth, identity, KeyFile([], lambda: secret))
