"""Node keys are EC P-384 in OpenSSH form, and nothing else is taken."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from moma_core.errors import CertificateError
from moma_core.pki.key_files import (
    create_node_key,
    load_node_key,
    load_public_node_key,
)


def test_both_halves_belong_together() -> None:
    pair = create_node_key()

    private = load_node_key(pair.private)
    public = load_public_node_key(pair.public)

    assert private.public_key().public_numbers() == public.public_numbers()
    assert pair.public.startswith(b"ecdsa-sha2-nistp384 ")


@pytest.mark.parametrize(
    "key",
    [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())],
)
def test_a_key_of_another_kind_is_refused(
    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
) -> None:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)

    with pytest.raises(CertificateError, match="P-384"):
        load_node_key(private)
    with pytest.raises(CertificateError, match="P-384"):
        load_public_node_key(public)


@pytest.mark.parametrize("text", [b"", b"ecdsa-sha2-nistp384 AAAA", b"\xff" * 40])
def test_what_is_no_key_is_refused(text: bytes) -> None:
    with pytest.raises(CertificateError):
        load_node_key(text)
    with pytest.raises(CertificateError):
        load_public_node_key(text)


def test_a_key_too_long_to_be_one_is_not_parsed() -> None:
    with pytest.raises(CertificateError, match="5000 bytes"):
        load_public_node_key(b"x" * 5000)
