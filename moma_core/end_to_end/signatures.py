"""End-to-end identity: Ed25519 keys of sites and teachers, made where they live.

Certificates authenticate the transport, and whoever holds the authority's key can make
more of them. What one party says to another is therefore signed with a key of its own,
which the other side has pinned out of band. Every signature names its purpose, so that
none can be shown for anything but what it was made for.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from moma_core.errors import CertificateError, quoted
from moma_core.pki.key_files import load_private_key
from moma_core.runtime.canonical_json import canonical_json, parsed_json
from moma_core.runtime.files import write_private

FINGERPRINT_PATTERN = r"^ed25519:[0-9a-f]{64}$"

SIGNATURE_BYTES = 64

_PREFIX = "ed25519:"

_KEY_BYTES = 32

_PRIME = 2**255 - 19

_ORDER_8 = bytes.fromhex(
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
)

_WEAK = frozenset(
    {0, 1, _PRIME - 1} | {(y := int.from_bytes(_ORDER_8, "little")), _PRIME - y}
)
"""y of the eight points of small order: under them anybody signs anything."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A party's public key; as text, its fingerprint, which is the key itself.

    Args:
        raw: 32 bytes, RFC 8032.

    Raises:
        CertificateError: It is of another length or spelling, or of small order, so
            that its signatures prove nothing.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != _KEY_BYTES:
            raise CertificateError(f"a key has 32 bytes, got {len(self.raw)}")
        y = int.from_bytes(self.raw, "little") % 2**255  # the top bit is x's sign
        if y >= _PRIME or y in _WEAK:
            raise CertificateError(f"{self} is no key that anybody should trust")

    def __str__(self) -> str:
        return _PREFIX + self.raw.hex()

    @classmethod
    def parse(cls, fingerprint: str) -> "VerifyingKey":
        """Reads a fingerprint, `ed25519:` and 64 hexadecimal digits.

        Raises:
            CertificateError: It is none.
        """
        if not fingerprint.startswith(_PREFIX):
            raise CertificateError(f"{quoted(fingerprint)} is no fingerprint of a key")
        try:
            return cls(bytes.fromhex(fingerprint.removeprefix(_PREFIX)))
        except ValueError:
            message = f"{quoted(fingerprint)} is no fingerprint of a key"
            raise CertificateError(message) from None

    def check(self, purpose: str, content: bytes, signature: bytes) -> None:
        """Checks a signature over content, made for a purpose.

        Raises:
            CertificateError: Another key, content or purpose was signed.
        """
        key = Ed25519PublicKey.from_public_bytes(self.raw)
        try:
            key.verify(signature, _framed(purpose, content))
        except InvalidSignature:
            message = f"the signature of the {purpose} is not of {self}"
            raise CertificateError(message) from None


class SigningKey:
    """A party's private key.

    Args:
        key: As `cryptography` holds it.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def create(cls) -> "SigningKey":
        """Makes a new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, passphrase_file: Path | None = None) -> "SigningKey":
        """Reads a key file.

        Raises:
            CertificateError: As `open_key`, or it is no Ed25519 key.
        """
        key = load_private_key(path, passphrase_file)
        if not isinstance(key, Ed25519PrivateKey):
            raise CertificateError(f"the signing key {path} is no Ed25519 key")
        return cls(key)

    @property
    def public(self) -> VerifyingKey:
        """What others pin."""
        return VerifyingKey(self._key.public_key().public_bytes_raw())

    def sign(self, purpose: str, content: bytes) -> bytes:
        """Returns the signature, 64 bytes, over content for a purpose."""
        return self._key.sign(_framed(purpose, content))

    def to_pem(self, passphrase: bytes | None = None) -> bytes:
        """Returns the key for `write_private`, encrypted if there is a passphrase."""
        encryption: KeySerializationEncryption = NoEncryption()
        if passphrase:
            encryption = BestAvailableEncryption(passphrase)
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _framed(purpose: str, content: bytes) -> bytes:
    label = f"moma.v1 {purpose}".encode()
    return len(label).to_bytes(2, "big") + label + content


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
    write_private(beside, f"{signature.hex()}\n".encode(), "the signature")
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
        return canonical_json(parsed_json(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise CertificateError(f"cannot read {path}: {error}") from None
