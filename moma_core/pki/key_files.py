"""Private keys on disk: for their owner alone, encrypted where there is a passphrase.

A key that others on the machine can read is no secret any more, so it is not used: the
operator is told instead. The libraries that speak TLS want the key itself, so an
encrypted one is opened in memory, and never written back.
"""

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from moma_core.errors import CertificateError
from moma_core.pki.certificates import create_key
from moma_core.runtime.files import write_private

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_LONGEST_SECRET_BYTES = 64 * 1024
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
        CertificateError: The file cannot be read, or others can read it.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, secrets.token_bytes(_SECRET_BYTES))
    return read_private(path)


def read_passphrase(path: Path | None) -> bytes | None:
    """Returns what a passphrase file holds, without its last line break.

    Args:
        path: None where keys are kept without a passphrase.

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
        path: PKCS #8 in PEM, or OpenSSH.
        passphrase_file: With which it is encrypted; None: it is not.

    Raises:
        CertificateError: The file is missing, open to others or no key; or the
            passphrase is missing, wrong, or there is one where none is needed.
    """
    content = read_private(path)
    key = _loaded(path, content, read_passphrase(passphrase_file))
    is_openssh = content.startswith(_OPENSSH)
    form = PrivateFormat.OpenSSH if is_openssh else PrivateFormat.PKCS8
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def sealed_key(key_pem: bytes, passphrase: bytes | None) -> bytes:
    """Returns an unencrypted key as it is to lie on disk, for `write_private`.

    Args:
        key_pem: PKCS #8 in PEM, or OpenSSH.
        passphrase: None leaves it as it is; else it becomes encrypted PKCS #8.
    """
    if passphrase is None:
        return key_pem
    key = _loader(key_pem)(key_pem, None)
    return key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase)
    )


def _loader(content: bytes) -> Callable[[bytes, bytes | None], PrivateKeyTypes]:
    is_openssh = content.startswith(_OPENSSH)
    return load_ssh_private_key if is_openssh else load_pem_private_key


def _loaded(path: Path, content: bytes, passphrase: bytes | None) -> PrivateKeyTypes:
    try:
        return _loader(content)(content, passphrase)
    except TypeError:
        wanted = "is not encrypted, drop" if passphrase else "is encrypted, name"
        message = f"the key {path} {wanted} its passphrase file"
        raise CertificateError(message) from None
    except (ValueError, UnsupportedAlgorithm):
        message = f"the key {path} cannot be read: it is none, or of another passphrase"
        raise CertificateError(message) from None


def ensure_key(path: Path, passphrase_file: Path | None = None) -> None:
    """Makes a TLS key where there is none; one that is there is only looked at.

    Raises:
        CertificateError: As `open_key` and `read_passphrase`.
    """
    if path.exists():
        open_key(path, passphrase_file)
    else:
        write_private(path, sealed_key(create_key(), read_passphrase(passphrase_file)))
