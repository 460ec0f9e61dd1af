"""A receipt: an entry, the proof that it is in the log, and the log's signature."""

from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from moma_core.audit import merkle
from moma_core.audit.checkpoint import Checkpoint, Hash
from moma_core.audit.entry import (
    LARGEST_ENTRY_BYTES,
    LoggedEntry,
    QueryEntry,
    commitment,
    decode,
)
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import AuditError
from moma_core.teacher.card.card import TeacherCard

LARGEST_RECEIPT_BYTES = 32 * 1024
"""Size of one receipt as JSON."""

MOST_RECEIPTS = 256
"""Receipts in one response."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a site can show anybody about one of its queries.

    Args:
        leaf: The entry's bytes.
        salt: Of its commitment; whoever has it and the pixels can verify what was sent.
        place: Index in the log, from 0.
        proof: Of inclusion in the checkpoint's tree, from the leaf upwards.
        checkpoint: Signed by the log's operator.
    """

    leaf: bytes
    salt: bytes
    place: int
    proof: tuple[bytes, ...]
    checkpoint: Checkpoint

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Reads one from a line of JSON; whether it is true is not checked yet.

        Raises:
            AuditError: It breaks its contract.
        """
        if len(text) > LARGEST_RECEIPT_BYTES:
            raise AuditError(f"a receipt of {len(text)} bytes is not read")
        try:
            line = _Line.model_validate_json(text)
        except ValueError:
            raise AuditError("the receipt breaks its contract") from None
        return cls(
            line.leaf.encode("ascii"),
            bytes.fromhex(line.salt),
            line.place,
            tuple(map(bytes.fromhex, line.proof)),
            line.checkpoint,
        )

    def to_json(self) -> str:
        """Returns it as one line of JSON."""
        return _Line(
            leaf=self.leaf.decode("ascii"),
            salt=self.salt.hex(),
            place=self.place,
            proof=tuple(part.hex() for part in self.proof),
            checkpoint=self.checkpoint,
        ).model_dump_json()


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    leaf: str = Field(pattern=r"^[ -~]*$", max_length=LARGEST_ENTRY_BYTES)
    salt: str = Field(pattern=r"^([0-9a-f]{32})?$")
    place: int = Field(ge=0, lt=2**53)
    proof: tuple[Hash, ...] = Field(max_length=merkle.MOST_PROOF_HASHES)
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a site knows of its own query.

    Args:
        site: Name of the site.
        card: Card of the teacher that it queried.
        request_id: 16 bytes.
        patches: Number of patches of the query.
        digest: SHA-256 of the request; None where a lossy encoding changed its pixels
            on the way, so that the site does not know it.
    """

    site: str
    card: TeacherCard
    request_id: bytes
    patches: int
    digest: bytes | None


def check_receipt(receipt: Receipt, key: VerifyingKey) -> LoggedEntry:
    """Checks that a receipt is what it says, whoever shows it.

    Args:
        receipt: The receipt to be checked.
        key: The log operator's, pinned.

    Returns:
        The entry.

    Raises:
        AuditError: The signature, the proof or the entry is forged.
    """
    receipt.checkpoint.check(key)
    placed = decode(receipt.leaf)
    if placed.sequence != receipt.place:
        raise AuditError(
            f"a receipt for entry {receipt.place} holds entry {placed.sequence}"
        )
    size, root = receipt.checkpoint.tree
    leaf = merkle.leaf_hash(receipt.leaf)
    if not merkle.is_included(leaf, receipt.place, size, receipt.proof, root):
        raise AuditError(
            f"entry {receipt.place} is not in the log that its receipt's checkpoint "
            f"at {size} entries signs"
        )
    return placed


def check_own(receipt: Receipt, key: VerifyingKey, own: Expectation) -> QueryEntry:
    """Checks the receipt of an answered query: what was sent, and what it says of it.

    Raises:
        AuditError: It is forged, about something else, or not what happened.
    """
    entry = check_receipt(receipt, key).entry
    if not isinstance(entry, QueryEntry):
        raise AuditError(f"entry {receipt.place} is about no query")
    logged = (entry.site, entry.request, entry.patches)
    if logged != (own.site, own.request_id.hex(), own.patches):
        raise AuditError(f"the receipt for entry {receipt.place} is of another query")
    if entry.outcome != "answered" or entry.charged not in {0, entry.patches}:
        raise AuditError(
            f"entry {receipt.place} says {entry.outcome} and {entry.charged} patches "
            f"charged, of a query of {entry.patches} that was answered"
        )
    # top-3-logits are logits
    disclosed = tuple(name.rpartition("-")[2] for name in entry.outputs.split(","))
    if (entry.teacher, disclosed) != (own.card.digest, own.card.outputs):
        raise AuditError(
            f"entry {receipt.place} is of another teacher or other outputs than the "
            "card says"
        )
    known = own.digest
    if known is not None and entry.commitment != commitment(receipt.salt, known):
        raise AuditError(
            f"entry {receipt.place} commits to other content than was sent"
        )
    return entry
