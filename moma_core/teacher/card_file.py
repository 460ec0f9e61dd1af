"""A card that travels as a file, beside weights, and the signature beside it."""

import json
from pathlib import Path

from moma_core.errors import CertificateError
from moma_core.trust.canonical import canonical_json
from moma_core.trust.signing import SigningKey, VerifyingKey

_PURPOSE = "exported teacher card"


def sign_card_file(path: Path, key: SigningKey) -> Path:
    """Signs a card's file; returns the signature's.

    Args:
        path: Of a card that was just written.
        key: The teacher's.
    """
    signature = key.sign(_PURPOSE, _content(path))
    beside = _beside(path)
    beside.write_text(signature.hex() + "\n", "ascii")
    return beside


def check_card_file(path: Path, key: VerifyingKey) -> None:
    """Checks the signature beside a card's file.

    Raises:
        CertificateError: There is none, or another key or content was signed.
    """
    try:
        signature = bytes.fromhex(_beside(path).read_text("ascii").strip())
    except (OSError, ValueError):
        raise CertificateError(f"{_beside(path)} holds no signature") from None
    key.check(_PURPOSE, _content(path), signature)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sig")


def _content(path: Path) -> bytes:
    """Returns one spelling of what the file says, however it is spelled there."""
    try:
        return canonical_json(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise CertificateError(f"cannot read the card {path}: {error}") from None
