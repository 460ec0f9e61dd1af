"""A receipt: an entry, the proof that it is in the log, and the log's signature."""

from dataclasses import dataclass

from moma_core.audit import merkle
from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.entry import Placed, QueryEntry, commitment, decode
from moma_core.errors import AuditError
from moma_core.trust.signing import VerifyingKey


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a site can show anybody about one of its queries.

    Args:
        leaf: The entry's bytes.
        salt: Of its commitment; whoever has it and the pixels can tell what was asked.
        place: In the log, from 0.
        proof: Of inclusion in the checkpoint's tree, from the leaf upwards.
        checkpoint: Signed by the log's keeper.
    """

    leaf: bytes
    salt: bytes
    place: int
    proof: tuple[bytes, ...]
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a site knows of its own query.

    Args:
        site: Itself.
        request_id: 16 bytes.
        patches: Asked about.
        digest: SHA-256 of the request.
    """

    site: str
    request_id: bytes
    patches: int
    digest: bytes


def check_receipt(receipt: Receipt, key: VerifyingKey) -> Placed:
    """Checks that a receipt is what it says, whoever shows it.

    Args:
        receipt: To be checked.
        key: The log keeper's, pinned.

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
    """Checks a receipt, and that it is about the site's own query.

    Raises:
        AuditError: It is forged, or about something else.
    """
    entry = check_receipt(receipt, key).entry
    if not isinstance(entry, QueryEntry):
        raise AuditError(f"entry {receipt.place} is about no query")
    said = (entry.site, entry.request, entry.patches)
    if said != (own.site, own.request_id.hex(), own.patches):
        raise AuditError(f"the receipt for entry {receipt.place} is of another query")
    if entry.commitment != commitment(receipt.salt, own.digest):
        raise AuditError(
            f"entry {receipt.place} commits to other content than was asked"
        )
    return entry
