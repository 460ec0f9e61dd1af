"""Private keys on disk: for their owner alone, encrypted where there is a passphrase.

A key that others on the machine can read is no secret any more, so it is refused. The
libraries that speak TLS want the key itself, so an encrypted one is opened in memory,
and never written back.

A site has a second key: with its node key it signs its calls to the federation engine,
which wants EC P-384. The public half is one line of OpenSSH text.
"""

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from moma_core.errors import CertificateError
from moma_core.pki.certificates import Credential, check_pair, create_key
from moma_core.pki.identity import UNREADABLE
from moma_core.runtime.files import make_folder, write_private

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_LONGEST_SECRET_BYTES = 64 * 1024
_LONGEST_NODE_KEY_BYTES = 4096
_SECRET_BYTES = 32
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"


def read_private(path: Path) -> bytes:
    """Returns the content of a file that its owner alone can read.

    Raises:
        CertificateError: It is missing, too large, or open to others.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_LONGEST_SECRET_BYTES + 1)
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from None
    if mode & _OTHERS:
        raise CertificateError(
            f"{path} has mode {mode:04o}, so others can read it; make it 0600, and "
            f"replace the key if it may have been seen"
        )
    if len(content) > _LONGEST_SECRET_BYTES:
        raise CertificateError(f"{path} is no key, it is too long")
    return content


def load_or_create_secret(path: Path) -> bytes:
    """Returns a file's 32 random bytes; the file is made if it is missing.

    Raises:
        CertificateError: The file cannot be read, is cut, or others can read it.
    """
    if not path.exists():
        make_folder(path.parent)
        write_private(path, secrets.token_bytes(_SECRET_BYTES))
    secret = read_private(path)
    if len(secret) != _SECRET_BYTES:
        raise CertificateError(
            f"{path} is damaged, it has {len(secret)} bytes and not {_SECRET_BYTES}: "
            f"bring it back from a backup, or delete it and pay again for answers that "
            f"were asked with it"
        )
    return secret


def read_passphrase(path: Path | None) -> bytes | None:
    """Returns what a passphrase file holds, without its last line break.

    Args:
        path: The passphrase file; None where keys are kept without one.

    Raises:
        CertificateError: It is missing, open to others, or empty.
    """
    if path is None:
        return None
    passphrase = read_private(path).rstrip(b"\r\n")
    if not passphrase:
        raise CertificateError(f"the passphrase file {path} is empty")
    return passphrase


def open_key(path: Path, passphrase_file: Path | None = None) -> bytes:
    """Returns a private key as unencrypted PEM, for memory alone.

    Args:
        path: The key file, PKCS #8 in PEM or OpenSSH.
        passphrase_file: Holds what the key is encrypted with; None: it is not.

    Raises:
        CertificateError: The file is missing, open to others or no key; or the
            passphrase is missing, wrong, or there is one where none is needed.
    """
    key, form = _read(path, passphrase_file)
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def load_private_key(
    path: Path, passphrase_file: Path | None = None
) -> PrivateKeyTypes:
    """Returns a private key of any kind.

    Raises:
        CertificateError: As `open_key`.
    """
    return _read(path, passphrase_file)[0]


def read_credential(
    certificate: Path, key: Path, passphrase_file: Path | None = None
) -> Credential:
    """Returns a certificate and its key, unencrypted, if they belong together.

    Between the two writes of a renewal by hand they do not: a server that took half of
    it would fail every handshake.

    Args:
        certificate: The certificate file with its chain, PEM.
        key: The key file.
        passphrase_file: Holds what the key is encrypted with; None: it is not.

    Raises:
        CertificateError: One of them cannot be read, or they do not belong together.
    """
    try:
        certificate_pem = certificate.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read the credential: {error}") from None
    key_pem = open_key(key, passphrase_file)
    check_pair(certificate_pem, key_pem)
    return Credential(certificate_pem, key_pem)


def sealed_key(key_pem: bytes, passphrase: bytes | None) -> bytes:
    """Returns an unencrypted key as it is to lie on disk, for `write_private`.

    Args:
        key_pem: The key, PKCS #8 in PEM or OpenSSH.
        passphrase: None leaves the key as it is; else it becomes encrypted PKCS #8.
    """
    if passphrase is None:
        return key_pem
    key = _loader(key_pem)(key_pem, None)
    return key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase)
    )


def ensure_key(path: Path, passphrase_file: Path | None = None) -> None:
    """Makes a TLS key where there is none; one that is there is only looked at.

    Raises:
        CertificateError: As `open_key` and `read_passphrase`.
    """
    if path.exists():
        open_key(path, passphrase_file)
    else:
        write_private(path, sealed_key(create_key(), read_passphrase(passphrase_file)))


def _loader(content: bytes) -> Callable[[bytes, bytes | None], PrivateKeyTypes]:
    is_openssh = content.startswith(_OPENSSH)
    return load_ssh_private_key if is_openssh else load_pem_private_key


def _read(
    path: Path, passphrase_file: Path | None
) -> tuple[PrivateKeyTypes, PrivateFormat]:
    content = read_private(path)
    passphrase = read_passphrase(passphrase_file)
    is_openssh = content.startswith(_OPENSSH)
    form = PrivateFormat.OpenSSH if is_openssh else PrivateFormat.PKCS8
    try:
        return _loader(content)(content, passphrase), form
    except TypeError:
        wanted = "is not encrypted, drop" if passphrase else "is encrypted, name"
        message = f"the key {path} {wanted} its passphrase file"
        raise CertificateError(message) from None
    except UNREADABLE:
        message = f"the key {path} cannot be read: it is none, or of another passphrase"
        raise CertificateError(message) from None


class NodeKey(NamedTuple):
    """A key pair in OpenSSH form; write the private half with `write_private`."""

    private: bytes
    public: bytes


def create_node_key() -> NodeKey:
    """Returns a fresh EC P-384 pair."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return NodeKey(private, public_node_key(private))


def load_node_key(private: bytes) -> ec.EllipticCurvePrivateKey:
    """Reads the private half.

    Args:
        private: The key in OpenSSH form; PKCS #8 where it was encrypted.

    Raises:
        CertificateError: It is not an EC P-384 key in one of these forms.
    """
    try:
        key = _loader(private)(private, None)
    except UNREADABLE as error:
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
    if len(public) > _LONGEST_NODE_KEY_BYTES:
        raise CertificateError(f"a node key of {len(public)} bytes is not read")
    try:
        key = load_ssh_public_key(public)
    except UNREADABLE as error:
        raise CertificateError("the node key is not in OpenSSH form") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not _is_p384(key.curve):
        raise CertificateError("the node key is not an EC P-384 key")
    return key


def _is_p384(curve: ec.EllipticCurve) -> bool:
    return isinstance(curve, ec.SECP384R1)
