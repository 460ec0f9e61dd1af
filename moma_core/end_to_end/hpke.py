"""Sealing: what only the holder of one key can read (HPKE, RFC 9180, base mode).

Base mode says nothing of who sealed; `sealed_messages` signs. The bytes depend on a
context that both sides know and nobody sends: opened in another one, they do not open.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Literal, get_args

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from moma_core.errors import CertificateError

SuiteName = Literal["x25519", "mlkem768-x25519"]
SUITES: Final[tuple[SuiteName, ...]] = get_args(SuiteName)
"""Weakest first: a site refuses those before the one that its config names."""

KEY_ID_BYTES = 16

_X25519_BYTES = 32
_ML_KEM_SEED_BYTES = 64
_ML_KEM_PUBLIC_BYTES = 1184

_HPKE: Final[dict[SuiteName, Suite]] = {
    "x25519": Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
    "mlkem768-x25519": Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
}
_TAG_BYTES = 16
_ENCAPSULATED_BYTES: Final[dict[SuiteName, int]] = {
    "x25519": KEM.X25519.enc_length(),
    "mlkem768-x25519": KEM.MLKEM768_X25519.enc_length(),
}
_PUBLIC_BYTES: Final[dict[SuiteName, int]] = {
    "x25519": _X25519_BYTES,
    "mlkem768-x25519": _ML_KEM_PUBLIC_BYTES + _X25519_BYTES,
}


def is_as_strong(suite: SuiteName, floor: SuiteName) -> bool:
    """Whether a suite is the floor or a stronger one."""
    return SUITES.index(suite) >= SUITES.index(floor)


def public_bytes(suite: SuiteName) -> int:
    """Returns the length of a public key of a suite."""
    return _PUBLIC_BYTES[suite]


def added_bytes(suite: SuiteName) -> int:
    """Returns by how much what is sealed is longer than what it holds."""
    return _ENCAPSULATED_BYTES[suite] + _TAG_BYTES


@dataclass(frozen=True, slots=True)
class SealingPublicKey:
    """To whom something is sealed.

    Args:
        suite: The algorithms.
        raw: 32 bytes for `x25519`; the hybrid has the ML-KEM key before it.

    Raises:
        CertificateError: The bytes are no key of the suite.
    """

    suite: SuiteName
    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != _PUBLIC_BYTES[self.suite]:
            raise CertificateError(
                f"a sealing key of suite {self.suite} has "
                f"{_PUBLIC_BYTES[self.suite]} bytes, got {len(self.raw)}"
            )

    @property
    def key_id(self) -> bytes:
        """Names the key: the head of its SHA-256."""
        return hashlib.sha256(self.suite.encode() + self.raw).digest()[:KEY_ID_BYTES]

    def seal(self, content: bytes, context: bytes) -> bytes:
        """Returns content that only the holder of the private key can read.

        Raises:
            CertificateError: The bytes are no point or no key of the suite.
        """
        try:
            return _HPKE[self.suite].encrypt(content, self._loaded(), context)
        except ValueError as error:
            message = f"nothing can be sealed to this key of suite {self.suite}"
            raise CertificateError(message) from error

    def _loaded(self) -> X25519PublicKey | MLKEM768X25519PublicKey:
        point = X25519PublicKey.from_public_bytes(self.raw[-_X25519_BYTES:])
        if self.suite == "x25519":
            return point
        lattice = MLKEM768PublicKey.from_public_bytes(self.raw[:-_X25519_BYTES])
        return MLKEM768X25519PublicKey(lattice, point)


class SealingKey:
    """A private key, for as long as what was sealed to it may arrive.

    Args:
        suite: The algorithms.
        raw: As `raw` returns it: 32 bytes for `x25519`; the hybrid has the ML-KEM
            seed before it.

    Raises:
        CertificateError: The bytes are no key of the suite.
    """

    def __init__(self, suite: SuiteName, raw: bytes) -> None:
        expected = _X25519_BYTES
        if suite != "x25519":
            expected += _ML_KEM_SEED_BYTES
        if len(raw) != expected:
            raise CertificateError(f"{len(raw)} bytes are no sealing key of {suite}")
        self.raw = raw
        point = X25519PrivateKey.from_private_bytes(raw[-_X25519_BYTES:])
        public = point.public_key().public_bytes_raw()
        self._key: X25519PrivateKey | MLKEM768X25519PrivateKey = point
        if suite != "x25519":
            lattice = MLKEM768PrivateKey.from_seed_bytes(raw[:-_X25519_BYTES])
            public = lattice.public_key().public_bytes_raw() + public
            self._key = MLKEM768X25519PrivateKey(lattice, point)
        self.public = SealingPublicKey(suite, public)

    @classmethod
    def create(cls, suite: SuiteName) -> "SealingKey":
        """Makes a new key."""
        raw = X25519PrivateKey.generate().private_bytes_raw()
        if suite != "x25519":
            raw = MLKEM768PrivateKey.generate().private_bytes_raw() + raw
        return cls(suite, raw)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Returns what was sealed to this key in this context.

        Raises:
            CertificateError: It was sealed to another key or in another context, or
                was changed since.
        """
        try:
            return _HPKE[self.public.suite].decrypt(sealed, self._key, context)
        except InvalidTag:
            message = "the sealed bytes do not open: changed, or for somebody else"
            raise CertificateError(message) from None
