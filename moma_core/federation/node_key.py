"""The key with which a site's node signs its calls to the federation engine.

The engine wants EC P-384. The private half is made at the site and stays there; the
public half is one line of OpenSSH text that the coordinator admits.
"""

from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from moma_core.errors import CertificateError

_LONGEST_KEY_BYTES = 4096


class NodeKey(NamedTuple):
    """A key pair in OpenSSH form; write the private half with `write_private`."""

    private: bytes
    public: bytes


def create_node_key() -> NodeKey:
    """Returns a fresh EC P-384 pair."""
    key = ec.generate_private_key(ec.SECP384R1())
    return NodeKey(
        key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n",
    )


def load_node_key(private: bytes) -> ec.EllipticCurvePrivateKey:
    """Reads the private half.

    Args:
        private: In OpenSSH form; PKCS #8 where it was encrypted, see `open_key`.

    Raises:
        CertificateError: It is not an EC P-384 key in one of these forms.
    """
    is_openssh = b"OPENSSH" in private[:64]
    try:
        load = load_ssh_private_key if is_openssh else load_pem_private_key
        key = load(private, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError("the node key cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _is_p384(key.curve):
        raise CertificateError("the node key is not an EC P-384 key")
    return key


def public_node_key(private: bytes) -> bytes:
    """Returns the public half, in OpenSSH form, of what `load_node_key` reads."""
    key = load_node_key(private).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n"


def load_public_node_key(public: bytes) -> ec.EllipticCurvePublicKey:
    """Reads the public half, as a site sent it.

    Raises:
        CertificateError: It is not one EC P-384 key in OpenSSH form.
    """
    if len(public) > _LONGEST_KEY_BYTES:
        raise CertificateError(f"a node key of {len(public)} bytes is not read")
    try:
        key = load_ssh_public_key(public)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError("the node key is not in OpenSSH form") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not _is_p384(key.curve):
        raise CertificateError("the node key is not an EC P-384 key")
    return key


def _is_p384(curve: ec.EllipticCurve) -> bool:
    return isinstance(curve, ec.SECP384R1)
