"""What a log's operator signs: how long the log is, and its root, at a time.

Two checkpoints of one log are either of one history or proof of a fork. So every party
keeps those that it was shown, and compares them with those that others were shown.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moma_core.end_to_end.signatures import (
    FINGERPRINT_PATTERN,
    SigningKey,
    VerifyingKey,
)
from moma_core.errors import AuditError, CertificateError

LARGEST_CHECKPOINT_BYTES = 1024
"""Size of one checkpoint as JSON."""

MOST_CHECKPOINTS = 32
"""Checkpoints that are handed on at once."""

ORIGIN_PATTERN = r"^[a-z][a-z0-9.-]{1,62}/[a-z][a-z0-9-]{1,62}/[1-9][0-9]{0,8}$"

_PURPOSE = "checkpoint"

Origin = Annotated[str, Field(pattern=ORIGIN_PATTERN)]
"""A log's name: federation, operator, and the number of the log, which a rotation
counts up."""
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Fingerprint = Annotated[str, Field(pattern=FINGERPRINT_PATTERN)]


class TreeHead(NamedTuple):
    """A log at one size.

    Args:
        origin: Name of the log.
        size: Number of entries.
        root: 32 bytes.
        time_ms: Milliseconds since 1970, UTC.
    """

    origin: str
    size: int
    root: bytes
    time_ms: int


class Checkpoint(BaseModel):
    """A signed tree head.

    Args:
        origin: Name of the log.
        size: Number of entries.
        root: Root of the Merkle tree, hex.
        time_ms: When it was signed, milliseconds since 1970, UTC.
        key: Fingerprint of the key that signed.
        signature: Over all of the above, hex.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    origin: Origin
    size: int = Field(ge=0, lt=2**53)
    root: Hash
    time_ms: int = Field(ge=0, lt=2**53)
    key: Fingerprint
    signature: Signature

    @classmethod
    def sign(cls, head: TreeHead, key: SigningKey) -> "Checkpoint":
        """Signs a tree head."""
        root, fingerprint = head.root.hex(), str(key.public)
        body = _body(head.origin, head.size, root, head.time_ms, fingerprint)
        return cls(
            origin=head.origin,
            size=head.size,
            root=root,
            time_ms=head.time_ms,
            key=fingerprint,
            signature=key.sign(_PURPOSE, body).hex(),
        )

    @classmethod
    def parse(cls, text: str | bytes) -> "Checkpoint":
        """Reads one from JSON; its signature is not checked yet.

        Raises:
            AuditError: It breaks its contract; the message quotes nothing of it.
        """
        if len(text) > LARGEST_CHECKPOINT_BYTES:
            raise AuditError(f"a checkpoint of {len(text)} bytes is not read")
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            raise AuditError("the checkpoint breaks its contract") from None

    @property
    def keeper(self) -> str:
        """Federation and log operator, which successive logs have in common."""
        return self.origin.rpartition("/")[0]

    @property
    def number(self) -> int:
        """Number of the log; a rotation counts it up."""
        return int(self.origin.rpartition("/")[2])

    @property
    def position(self) -> tuple[int, int]:
        """In an operator's history: number of the log, and entries."""
        return self.number, self.size

    @property
    def tree(self) -> tuple[int, bytes]:
        """Size and root, as proofs of consistency take them."""
        return self.size, bytes.fromhex(self.root)

    def check(self, key: VerifyingKey) -> None:
        """Checks the signature.

        Args:
            key: The log operator's, which the caller has pinned.

        Raises:
            AuditError: It is of another key, or forged.
        """
        if self.key != str(key):
            raise AuditError(
                f"the checkpoint of {self.origin} is signed by {self.key}, not by {key}"
            )
        body = _body(self.origin, self.size, self.root, self.time_ms, self.key)
        try:
            key.check(_PURPOSE, body, bytes.fromhex(self.signature))
        except CertificateError:
            raise AuditError(
                f"the signature of the checkpoint of {self.origin} at {self.size} "
                "entries is forged"
            ) from None

    def to_json(self) -> str:
        """Returns it as one line of JSON."""
        return self.model_dump_json()


@dataclass(frozen=True, slots=True)
class Proof:
    """What shows how two states of a log, or an entry and a state, belong together.

    Args:
        hashes: As `merkle` verifies them.
        checkpoint: The newest state, signed.
    """

    hashes: tuple[bytes, ...]
    checkpoint: Checkpoint


def _body(origin: str, size: int, root: str, time_ms: int, key: str) -> bytes:
    lines = (origin, str(size), root, str(time_ms), key)
    return "".join(f"{line}\n" for line in lines).encode("ascii")
