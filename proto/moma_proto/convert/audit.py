"""Receipts, checkpoints and proofs, between the wire and the domain.

Forms and sizes are checked here; whether a thing is true is checked where it is used
(`moma_core.audit.receipt`, `moma_core.audit.merkle`).
"""

from collections.abc import Iterable

from moma_core.audit.checkpoint import Checkpoint, Proof
from moma_core.audit.entry import LARGEST_ENTRY_BYTES, SALT_BYTES
from moma_core.audit.merkle import HASH_BYTES, MOST_PROOF_HASHES
from moma_core.audit.receipt import MOST_RECEIPTS, Receipt
from moma_core.errors import AuditError
from moma_proto.v1 import audit_pb2 as pb


def checkpoint_to_wire(checkpoint: Checkpoint) -> pb.Checkpoint:
    """Writes a checkpoint."""
    return pb.Checkpoint(
        origin=checkpoint.origin,
        size=checkpoint.size,
        root=bytes.fromhex(checkpoint.root),
        time_ms=checkpoint.time_ms,
        key=checkpoint.key,
        signature=bytes.fromhex(checkpoint.signature),
    )


def checkpoint_from_wire(checkpoint: pb.Checkpoint) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        AuditError: It breaks its contract.
    """
    try:
        return Checkpoint(
            origin=checkpoint.origin,
            size=checkpoint.size,
            root=checkpoint.root.hex(),
            time_ms=checkpoint.time_ms,
            key=checkpoint.key,
            signature=checkpoint.signature.hex(),
        )
    except ValueError:  # pydantic's is one
        raise AuditError("the checkpoint breaks its contract") from None


def receipt_to_wire(receipt: Receipt) -> pb.Receipt:
    """Writes a receipt."""
    return pb.Receipt(
        leaf=receipt.leaf,
        salt=receipt.salt,
        place=receipt.place,
        proof=receipt.proof,
        checkpoint=checkpoint_to_wire(receipt.checkpoint),
    )


def receipt_from_wire(receipt: pb.Receipt) -> Receipt:
    """Reads a receipt.

    Raises:
        AuditError: It breaks its contract.
    """
    if len(receipt.leaf) > LARGEST_ENTRY_BYTES:
        raise AuditError(f"a receipt's entry of {len(receipt.leaf)} bytes is not read")
    if len(receipt.salt) not in (0, SALT_BYTES):
        raise AuditError(f"a receipt's salt has {len(receipt.salt)} bytes")
    return Receipt(
        receipt.leaf,
        receipt.salt,
        receipt.place,
        _hashes(receipt.proof),
        checkpoint_from_wire(receipt.checkpoint),
    )


def receipts_from_wire(response: pb.ReceiptsResponse) -> list[Receipt]:
    """Reads receipts.

    Raises:
        AuditError: One breaks its contract, or there are too many.
    """
    if len(response.receipts) > MOST_RECEIPTS:
        raise AuditError(f"{len(response.receipts)} receipts came at once")
    return [receipt_from_wire(receipt) for receipt in response.receipts]


def proof_to_wire(proof: Proof) -> pb.ConsistencyProofResponse:
    """Writes a proof of consistency."""
    return pb.ConsistencyProofResponse(
        proof=proof.hashes, checkpoint=checkpoint_to_wire(proof.checkpoint)
    )


def proof_from_wire(response: pb.ConsistencyProofResponse) -> Proof:
    """Reads a proof of consistency.

    Raises:
        AuditError: It breaks its contract.
    """
    checkpoint = checkpoint_from_wire(response.checkpoint)
    return Proof(_hashes(response.proof), checkpoint)


def _hashes(hashes: Iterable[bytes]) -> tuple[bytes, ...]:
    found = tuple(hashes)
    if len(found) > MOST_PROOF_HASHES or any(len(h) != HASH_BYTES for h in found):
        raise AuditError(f"a proof of {len(found)} hashes breaks its contract")
    return found
