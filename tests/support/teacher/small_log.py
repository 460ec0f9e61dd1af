"""A log in memory for scripted teachers: every answer gets a receipt that is true."""

import secrets
import time
from typing import Any

from moma_core.audit import merkle
from moma_core.audit.checkpoint import Checkpoint, Proof, TreeHead
from moma_core.audit.entry import (
    SALT_BYTES,
    LoggedEntry,
    QueryEntry,
    commitment,
    encode,
)
from moma_core.audit.merkle import Frontier, MerkleNode
from moma_core.audit.receipt import Receipt
from moma_core.end_to_end.signatures import SigningKey
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.query import PatchQuery
from moma_proto.convert.audit import proof_to_wire
from moma_proto.v1 import audit_pb2 as pb
from moma_proto.v1.audit_pb2_grpc import AuditServiceServicer

ORIGIN = "test-federation/teacher-a/1"


class SmallLog:
    """Grows by an entry an answer.

    Args:
        key: Signs.
    """

    def __init__(self, key: SigningKey) -> None:
        self.key = key
        self._frontier = Frontier()
        self._nodes: dict[MerkleNode, bytes] = {}
        self._previous = ""

    def receipt(
        self, site: str, query: PatchQuery, card: TeacherCard, **said: Any
    ) -> Receipt:
        """Returns the receipt of a new entry, which may say what did not happen."""
        place, salt = self._frontier.size, secrets.token_bytes(SALT_BYTES)
        true = {
            "site": site,
            "teacher": card.digest,
            "request": query.request_id.hex(),
            "patches": len(query),
            "charged": len(query),
            "outputs": ",".join(card.outputs),
            "outcome": "answered",
            "commitment": commitment(salt, query.digest()),
        }
        entry = QueryEntry(**{**true, **said})
        now_ms = int(time.time() * 1000)
        leaf = encode(
            LoggedEntry(
                sequence=place, time_ms=now_ms, previous=self._previous, entry=entry
            )
        )
        full = self._frontier.push(merkle.leaf_hash(leaf))
        for level, node in enumerate(full):
            self._nodes[MerkleNode(level, place >> level)] = node
        self._previous = full[0].hex()
        terms = merkle.inclusion_terms(place, place + 1)
        proof = tuple(merkle.resolve(terms, self._nodes.__getitem__))
        return Receipt(leaf, salt, place, proof, self.checkpoint())

    def checkpoint(self) -> Checkpoint:
        size, root = self._frontier.size, self._frontier.root()
        head = TreeHead(ORIGIN, size, root, int(time.time() * 1000))
        return Checkpoint.sign(head, self.key)

    def consistency(self, size: int) -> Proof:
        terms = merkle.consistency_terms(size, self._frontier.size)
        hashes = tuple(merkle.resolve(terms, self._nodes.__getitem__))
        return Proof(hashes, self.checkpoint())


class ScriptedAudit(AuditServiceServicer):
    """Proves that a scripted teacher's log only grew."""

    def __init__(self, teacher: Any) -> None:
        self._teacher = teacher

    def ConsistencyProof(self, request: Any, context: Any) -> Any:
        if self._teacher.log_status is not None:
            context.abort(self._teacher.log_status, "as somebody on the way says")
        desk, card = self._teacher.desk, self._teacher.card
        question = desk.opened("ConsistencyProof", request, card)
        asked = pb.ConsistencyProofRequest.FromString(bytes(question.take_message()))
        proof = self._teacher.log.consistency(asked.size)
        return desk.sealed(question, proof_to_wire(proof))
