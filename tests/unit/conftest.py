"""A clock that costs no time, an event loop whose sleeps are jumps; and throwaway certificates."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from joserfc.jwk import RSAKey

    from tests.conftest import KeyHolder

T = TypeVar("T")

_DAMAGE: Final = {
    # rsaEncryption in a SubjectPublicKeyInfo, and an algorithm that nobody knows.
    "kind of key": (b"\x06\x09*\x86H\x86\xf7\r\x01\x01\x01", b"\x06\x09*\x86H\x86\xf7\r\x01\x01\x6f"),
    # The RSA key inside is no sequence any more.
    "key": (b"\x00\x30\x82\x01\x0a\x02\x82\x01\x01", b"\x00\x31\x82\x01\x0a\x02\x82\x01\x01"),
    # The serialNumber in the subject is a text of a kind that does not exist.
    "subject": (b"\x06\x03\x55\x04\x05\x13", b"\x06\x03\x55\x04\x05\x0f"),
    # There are versions 1 to 3, counted from 0.
    "version": (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x42"),
}
"""What to change in a certificate's bytes."""


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting for a time-out, move the loop's clock to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everyone waits and nobody will come: a deadlock")
            self.now += timeout
        return ready


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


@pytest.fixture
def in_virtual_time() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Run a coroutine on a loop whose clock jumps over every wait; fail where everyone waits for ever."""

    def run(work: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=_JumpingLoop) as runner:
            return runner.run(work)

    return run


@dataclass(frozen=True, slots=True)
class KeyMaker:
    """Makes certificates and P12 files from two of the throwaway key pairs, which take a while to find."""

    key: rsa.RSAPrivateKey
    other_key: rsa.RSAPrivateKey

    def certificate(
        self,
        name: str,
        serial: str | None,
        *,
        key: Any = None,
        days: float = 1000,
    ) -> x509.Certificate:
        """Make a certificate of ``key``, or of another pair, that is valid for so many days from now."""
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if serial is not None:
            attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial))
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name(attributes))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throwaway CA")]))
            .public_key((key or self.key).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2000))
            .not_valid_after(now + timedelta(days=days))
            .sign(self.other_key, SHA256())
        )

    def damaged(self, name: str, *, part: str) -> bytes:
        """Make a certificate, DER, whose ``part`` can't be read: most only when it is asked for."""
        good, bad = _DAMAGE[part]
        der = self.certificate(name, "1").public_bytes(Encoding.DER)
        assert der.count(good) == 1
        return der.replace(good, bad)

    def p12(self, *certificates: x509.Certificate, key: Any = None, password: bytes = b"pass word") -> bytes:
        """Make a P12 file of ``key``, or of another pair, with its own certificate if that is given."""
        key = key or self.key
        own = next((one for one in certificates if one.public_key() == key.public_key()), None)
        return pkcs12.serialize_key_and_certificates(
            None, key, own, [one for one in certificates if one is not own], BestAvailableEncryption(password)
        )

    def pem(self, *, password: bytes | None = None) -> bytes:
        """Make a PEM file of ``key``."""
        encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.fixture(scope="session")
def keys(key_holder: KeyHolder) -> KeyMaker:
    """Give one key maker to all tests."""
    return KeyMaker(*(rsa_key(one) for one in (key_holder.signing_key, key_holder.response_key)))


def rsa_key(key: RSAKey) -> rsa.RSAPrivateKey:
    """Take the private key out of the JOSE library's wrapper."""
    assert isinstance(key.private_key, rsa.RSAPrivateKey)
    return key.private_key
