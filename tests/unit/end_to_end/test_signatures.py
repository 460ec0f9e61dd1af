"""End-to-end keys: what a signature is good for, and what it is not."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import CertificateError
from moma_core.pki.certificates import create_key
from moma_core.runtime.files import write_private


def test_a_signature_is_of_one_key_one_purpose_and_one_content() -> None:
    key, other = SigningKey.create(), SigningKey.create()
    signature = key.sign("card", b"content")
    key.public.check("card", b"content", signature)
    for checked in (
        (other.public, "card", b"content"),
        (key.public, "receipt", b"content"),
        (key.public, "card", b"contenT"),
    ):
        with pytest.raises(CertificateError, match="signature"):
            checked[0].check(checked[1], checked[2], signature)
    with pytest.raises(CertificateError, match="signature"):
        key.public.check("card", b"content", signature[:-1])


def test_a_purpose_cannot_be_moved_into_the_content() -> None:
    key = SigningKey.create()
    signature = key.sign("card", b"x\0y")
    with pytest.raises(CertificateError):
        key.public.check("card\0x", b"y", signature)


def test_a_fingerprint_is_the_key() -> None:
    key = SigningKey.create().public
    assert VerifyingKey.parse(str(key)) == key


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:zz", "rsa:00", "ed25519:00"])
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(CertificateError):
        VerifyingKey.parse(text)


def test_a_key_file_opens_with_its_passphrase_alone(tmp_path: Path) -> None:
    key, path = SigningKey.create(), tmp_path / "signing.key"
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    write_private(path, key.to_pem(b"a passphrase"))
    write_private(right, b"a passphrase\n")
    write_private(wrong, b"another\n")

    assert SigningKey.load(path, right).public == key.public
    for passphrase_file in (None, wrong):
        with pytest.raises(CertificateError, match="passphrase"):
            SigningKey.load(path, passphrase_file)
    path.chmod(0o640)
    with pytest.raises(CertificateError, match="others can read it"):
        SigningKey.load(path, right)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tls.key"
    write_private(path, create_key())
    with pytest.raises(CertificateError, match="is no Ed25519 key"):
        SigningKey.load(path)


def test_a_key_that_ssh_keygen_made_is_a_signing_key(tmp_path: Path) -> None:
    key, path = Ed25519PrivateKey.generate(), tmp_path / "signing.key"
    form = (Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_private(path, key.private_bytes(*form))

    public = SigningKey.load(path).public

    assert public == VerifyingKey(key.public_key().public_bytes_raw())


@pytest.mark.parametrize(
    "raw",
    [
        "01" + "00" * 31,
        "01" + "00" * 30 + "80",
        "ec" + "ff" * 30 + "7f",
        "00" * 32,
        "00" * 31 + "80",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "ed" + "ff" * 30 + "7f",
        "ff" * 32,
    ],
)
def test_a_key_under_which_anybody_signs_is_none(raw: str) -> None:
    """Points of small order, and other spellings of small numbers: RFC 8032, 5.1.3."""
    with pytest.raises(CertificateError, match="no key that anybody should trust"):
        VerifyingKey.parse("ed25519:" + raw)
