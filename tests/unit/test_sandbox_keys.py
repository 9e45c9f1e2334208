"""The simulator's keys: read from files, made up, and never loaded for nothing."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12
from cryptography.x509.oid import NameOID

from batchcancel.sandbox.keys import (
    EncryptionKey,
    ResponseCertificate,
    SandboxKeys,
    SigningCertificate,
    read_keys,
)
from batchcancel.sandbox.throwaway import ThrowawayKeys, keys_in

if TYPE_CHECKING:
    from tests.conftest import KeyHolder
    from tests.unit.conftest import KeyMaker

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "auth_vectors.json").read_text())
SJC, RESPONSE = VECTORS["mle"]["keys"]["sjc"], VECTORS["mle"]["keys"]["response_mle"]
MERCHANT = VECTORS["p12_material"]["merchant"]


def elliptic_certificate(keys: KeyMaker) -> bytes:
    """Make a certificate whose key is not RSA."""
    key = ec.generate_private_key(ec.SECP256R1())
    return keys.certificate("elliptic", "7", key=key).public_bytes(Encoding.PEM)


def certificate_without_serial(keys: KeyMaker) -> bytes:
    """Make a certificate whose subject has no serialNumber."""
    return keys.certificate("nameless", None).public_bytes(Encoding.PEM)


# --- reading --------------------------------------------------------------------------------------


def test_a_key_is_named_by_its_subject_s_serial_number() -> None:
    """The vectors' certificates give the ids that the official client sends."""
    signing = SigningCertificate.from_pem(MERCHANT["cert_pem"].encode())
    assert (signing.key_id, signing.alias) == (MERCHANT["expected_kid"], MERCHANT["key_alias"])
    response = ResponseCertificate.from_pem(RESPONSE["cert_pem"].encode())
    assert response.key_id == RESPONSE["expected_kid"]
    for pem in (SJC["cert_pem"] + SJC["private_key_pem"], SJC["private_key_pem"] + SJC["cert_pem"]):
        assert EncryptionKey.from_pem(pem.encode()).key_id == SJC["expected_kid"]


BAD_CERTIFICATES = [
    pytest.param(lambda _: b"", "no certificate", id="empty"),
    pytest.param(lambda _: b"\xff\xfe", "no certificate", id="bytes"),
    pytest.param(lambda _: SJC["private_key_pem"].encode(), "no certificate", id="key-alone"),
    pytest.param(lambda _: SJC["cert_pem"].encode()[:300], "no certificate", id="cut-short"),
    pytest.param(elliptic_certificate, "not RSA", id="no-rsa"),
    pytest.param(certificate_without_serial, r"has no 2\.5\.4\.5", id="no-serial-number"),
]


@pytest.mark.parametrize(("make", "fault"), BAD_CERTIFICATES)
@pytest.mark.parametrize(
    ("purpose", "kind"), [("signing", SigningCertificate), ("response", ResponseCertificate)]
)
def test_a_bad_certificate_is_refused_by_its_file_s_name(
    tmp_path: Path, keys: KeyMaker, purpose: str, kind: Any, make: Callable[[KeyMaker], bytes], fault: str
) -> None:
    """What is wrong and where is said in a sentence that quotes nothing of the file."""
    pem = make(keys)
    with pytest.raises(ValueError, match=fault):
        kind.from_pem(pem)
    path = tmp_path / "file.pem"
    path.write_bytes(pem)
    with pytest.raises(ValueError, match=fault) as caught:
        read_keys(**{purpose: path})
    assert str(caught.value).startswith(f"{path}: ")
    assert "MII" not in str(caught.value)


@pytest.mark.parametrize(
    ("pem", "fault"),
    [
        pytest.param(SJC["private_key_pem"], "no certificate", id="no-certificate"),
        pytest.param(SJC["cert_pem"], "no private key", id="no-key"),
        pytest.param(SJC["cert_pem"] + MERCHANT["private_key_pem"], "not the certificate's", id="another's"),
        pytest.param(
            RESPONSE["cert_pem"] + RESPONSE["encrypted_private_key_pem"], "without a password", id="encrypted"
        ),
    ],
)
def test_an_encryption_key_needs_both_halves(tmp_path: Path, pem: str, fault: str) -> None:
    """Certificate and private key have to be there, open, and belong together."""
    path = tmp_path / "file.pem"
    path.write_text(pem)
    with pytest.raises(ValueError, match=fault) as caught:
        read_keys(encryption=path)
    assert "MII" not in str(caught.value)


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    """The caller says which file it was."""
    with pytest.raises(FileNotFoundError):
        read_keys(signing=tmp_path / "nothing.pem")
    assert read_keys() == SandboxKeys()


def test_a_private_key_is_not_shown() -> None:
    """Neither the key's text nor that of what holds it says more than its id."""
    key = EncryptionKey.from_pem((SJC["cert_pem"] + SJC["private_key_pem"]).encode())
    assert repr(key) == f"EncryptionKey(key_id='{SJC['expected_kid']}')"
    assert "private" not in repr(SandboxKeys(encryption=key)).lower()


# --- throwaway keys -------------------------------------------------------------------------------


def test_throwaway_keys_are_what_a_customer_has(key_holder: KeyHolder) -> None:
    """Both P12 files open with the password and hold the key, the encryption certificate and a CA's."""
    files = key_holder.files
    password = files.password_file.read_bytes().strip()
    encryption = x509.load_pem_x509_certificate(files.encryption_certificate.read_bytes())
    for path in (files.signing_p12, files.response_p12):
        held = pkcs12.load_pkcs12(path.read_bytes(), password)
        assert held.key is not None
        assert held.cert is not None
        assert held.cert.certificate.public_key() == held.key.public_key()
        others = [other.certificate for other in held.additional_certs]
        assert others[0] == encryption
        names = [other.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value for other in others]
        assert names == ["CyberSource_SJC_US", "batchcancel throwaway CA"]
        with pytest.raises(ValueError, match="password"):
            pkcs12.load_pkcs12(path.read_bytes(), b"guess")
        held.cert.certificate.verify_directly_issued_by(others[1])
    assert key_holder.signer_id == "key_merchant"


def test_the_simulator_s_side_fits_the_customer_s(key_holder: KeyHolder) -> None:
    """Three different keys, each known by the same id on both sides."""
    keys = key_holder.files.read()
    assert keys.signing is not None
    assert keys.encryption is not None
    assert keys.response is not None
    assert keys.signing.alias == "key_merchant"
    ids = [keys.signing.key_id, keys.encryption.key_id, keys.response.key_id]
    assert ids == [key_holder.key_id, key_holder.encryption_key_id, key_holder.response_key_id]
    assert len(set(ids)) == 3
    assert all(len(key_id) == 22 and key_id.isdigit() for key_id in ids)


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Take every protection away that a umask gives."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_throwaway_keys_are_for_their_owner_only(tmp_path: Path, open_umask: None) -> None:
    """Whatever the umask, nobody else can read them; the folder is made where it is missing."""
    files = keys_in(tmp_path / "new" / "keys", "someone")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in files.folder.iterdir()}
    assert modes == {0o600}
    assert len(list(files.folder.iterdir())) == 7
    assert stat.S_IMODE(files.folder.stat().st_mode) == 0o700


def test_keys_that_are_there_are_taken_again(tmp_path: Path, key_holder: KeyHolder) -> None:
    """A simulator that is started again still knows its clients."""
    before = {path: path.read_bytes() for path in key_holder.files.folder.iterdir()}
    again = keys_in(key_holder.files.folder, "someone else")
    assert {path: path.read_bytes() for path in again.folder.iterdir()} == before
    assert again == key_holder.files


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    """A folder with some of the files is somebody's, so nothing is made in it."""
    mine = ThrowawayKeys(folder=tmp_path).password_file
    mine.write_text("mine")
    with pytest.raises(FileExistsError):
        keys_in(tmp_path, "someone")
    assert mine.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [mine]


# --- nothing for nothing --------------------------------------------------------------------------


def test_a_simulator_with_a_shared_secret_loads_no_cryptography() -> None:
    """The simulator in a run's own process starts as quickly as before."""
    code = (
        "import asyncio, sys\n"
        "from batchcancel.sandbox import Sandbox, SandboxOptions\n"
        "async def serve():\n"
        "    async with Sandbox(SandboxOptions()):\n"
        "        assert not {'cryptography', 'joserfc', 'batchcancel.sandbox.keys'} & set(sys.modules)\n"
        "asyncio.run(serve())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")
