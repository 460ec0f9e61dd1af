"""A key file is its owner's alone, and opens with its passphrase and no other."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from moma_core.errors import CertificateError
from moma_core.pki.certificates import create_key
from moma_core.pki.key_files import (
    create_node_key,
    ensure_key,
    load_node_key,
    load_or_create_secret,
    open_key,
    read_passphrase,
    sealed_key,
)
from moma_core.runtime.files import write_private

SECRET = b"four words of nonsense"


def passphrase_file(folder: Path, content: bytes = SECRET + b"\n") -> Path:
    path = folder / "passphrase"
    write_private(path, content)
    return path


def key_file(folder: Path, content: bytes) -> Path:
    path = folder / "a.key"
    write_private(path, content)
    return path


def test_an_encrypted_key_is_opened_in_memory_and_stays_encrypted_on_disk(
    tmp_path: Path,
) -> None:
    key = create_key()
    path = key_file(tmp_path, sealed_key(key, SECRET))

    opened = open_key(path, passphrase_file(tmp_path))

    assert opened == key
    assert b"ENCRYPTED" in path.read_bytes()


def test_an_encrypted_node_key_is_still_a_node_key(tmp_path: Path) -> None:
    pair = create_node_key()
    path = key_file(tmp_path, sealed_key(pair.private, SECRET))

    opened = load_node_key(open_key(path, passphrase_file(tmp_path)))

    expected = load_node_key(pair.private)
    assert opened.private_numbers() == expected.private_numbers()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_key_that_others_can_read_or_write_is_refused(
    tmp_path: Path, mode: int
) -> None:
    path = key_file(tmp_path, create_key())
    path.chmod(mode)

    with pytest.raises(CertificateError, match=f"mode {mode:04o}, so others can"):
        open_key(path)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_secret_of_another_length_is_refused(tmp_path: Path, length: int) -> None:
    """An empty one would order patches as anybody can compute."""
    path = tmp_path / "request.key"
    write_private(path, bytes(length))

    with pytest.raises(CertificateError, match=f"request.key is damaged, .* {length} "):
        load_or_create_secret(path)


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "request.key"
    made = load_or_create_secret(path)
    assert load_or_create_secret(path) == made
    path.chmod(0o644)

    with pytest.raises(CertificateError, match="mode 0644, so others can read it"):
        load_or_create_secret(path)


@pytest.mark.parametrize(
    ("stored", "given", "sentence"),
    [
        (SECRET, None, "is encrypted, name its passphrase file"),
        (SECRET, b"another", "or of another passphrase"),
        (None, SECRET, "is not encrypted, drop its passphrase file"),
    ],
    ids=["missing", "wrong", "needless"],
)
def test_what_is_wrong_with_a_passphrase_is_said(
    tmp_path: Path, stored: bytes | None, given: bytes | None, sentence: str
) -> None:
    path = key_file(tmp_path, sealed_key(create_key(), stored))
    secret = None if given is None else passphrase_file(tmp_path, given)

    with pytest.raises(CertificateError, match=sentence):
        open_key(path, secret)


def test_a_passphrase_that_others_can_read_or_an_empty_one_is_refused(
    tmp_path: Path,
) -> None:
    empty = passphrase_file(tmp_path, b"\n")
    with pytest.raises(CertificateError, match="is empty"):
        read_passphrase(empty)
    empty.chmod(0o644)

    with pytest.raises(CertificateError, match="others can read it"):
        read_passphrase(empty)


@pytest.mark.parametrize("content", [b"", b"no key", b"x" * 100_000])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CertificateError):
        open_key(key_file(tmp_path, content))


def test_a_key_that_is_there_is_used(tmp_path: Path) -> None:
    path = tmp_path / "new.key"
    ensure_key(path)
    made = path.read_bytes()

    ensure_key(path)

    assert path.read_bytes() == made
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_pem_private_key(made, None)
