"""The wire: authentication, request and reply of the Invoicing API."""

from __future__ import annotations

from batchcancel.api.client import Client
from batchcancel.api.clock import ServiceClock
from batchcancel.api.signing import Credentials, HttpSignatureSigner, JwtSigner, Signer

__all__ = ["Client", "Credentials", "HttpSignatureSigner", "JwtSigner", "ServiceClock", "Signer"]
