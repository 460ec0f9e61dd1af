"""A JSON file that travels, and the signature beside it, `<name>.sig`."""

import json
from pathlib import Path

from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import CertificateError
from moma_core.runtime.canonical_json import canonical_json

TEACHER_CARD = "exported teacher card"
STUDENT_CARD = "student card"


def sign_file(path: Path, key: SigningKey, purpose: str) -> Path:
    """Signs what a file says; returns the signature's path.

    Args:
        path: Of JSON that was just written.
        key: Whose word it is.
        purpose: For example STUDENT_CARD.
    """
    signature = key.sign(purpose, _content(path))
    beside = _beside(path)
    beside.write_text(signature.hex() + "\n", "ascii")
    return beside


def check_file(path: Path, key: VerifyingKey, purpose: str) -> None:
    """Checks the signature beside a file.

    Raises:
        CertificateError: There is none, or another key, content or purpose was signed.
    """
    try:
        signature = bytes.fromhex(_beside(path).read_text("ascii").strip())
    except (OSError, ValueError):
        raise CertificateError(f"{_beside(path)} holds no signature") from None
    key.check(purpose, _content(path), signature)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sig")


def _content(path: Path) -> bytes:
    """Returns one spelling of what the file says, however it is spelled there."""
    try:
        return canonical_json(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise CertificateError(f"cannot read {path}: {error}") from None
