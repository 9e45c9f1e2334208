"""The wire: authentication, encryption, request and reply of the Invoicing API.

``p12`` and ``encryption`` are imported where a run has certificates, for their libraries are slow to load.
"""

from __future__ import annotations

from batchcancel.api.client import Client
from batchcancel.api.clock import ServiceClock
from batchcancel.api.keys import Expiry, KeyFile, KeyFiles
from batchcancel.api.signing import HttpSignatureSigner, Identity, JwtKey, JwtSigner, SharedSecret, Signer

__all__ = [
    "Client",
    "Expiry",
    "HttpSignatureSigner",
    "Identity",
    "JwtKey",
    "JwtSigner",
    "KeyFile",
    "KeyFiles",
    "ServiceClock",
    "SharedSecret",
    "Signer",
]
