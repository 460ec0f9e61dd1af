"""moma.v1.AuditService: what the log's keeper shows, and to whom."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from moma_core.audit.books import Books
from moma_core.audit.entry import PolicyEntry, decode
from moma_core.errors import UnknownEntryError
from moma_core.teacher.query import REQUEST_ID_BYTES
from moma_proto.v1 import audit_pb2 as pb
from moma_proto.v1.audit_pb2_grpc import AuditServiceServicer
from moma_proto.v1.convert_audit import (
    checkpoint_to_wire,
    proof_to_wire,
    receipt_to_wire,
)
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse
from moma_server.teacher.policy_notes import POLICY
from moma_server.teacher.sealed_desk import SealedDesk
from moma_server.unary_calls import Context

T = TypeVar("T")

_LAST_PLACE = 2**53


class AuditAnswers:
    """Answers what a site asks about the log, however its questions came.

    Args:
        books: Read only.
    """

    def __init__(self, books: Books) -> None:
        self._books = books
        self._log = books.log

    async def latest_checkpoint(
        self, request: pb.LatestCheckpointRequest
    ) -> pb.LatestCheckpointResponse:
        """Returns the newest state of a log."""
        newest = await self._read(
            lambda database: self._log.latest(database, request.origin)
        )
        return pb.LatestCheckpointResponse(checkpoint=checkpoint_to_wire(newest))

    async def inclusion_proof(
        self, request: pb.InclusionProofRequest
    ) -> pb.InclusionProofResponse:
        """Returns an entry that is about no query, and names no site."""
        receipt = await self._read(
            lambda database: self._log.inclusion(
                database, request.origin, _place(request.place)
            )
        )
        entry = decode(receipt.leaf).entry
        if isinstance(entry, PolicyEntry) and entry.subject != POLICY:
            raise UnknownEntryError("the entry tells of other sites")
        return pb.InclusionProofResponse(receipt=receipt_to_wire(receipt))

    async def consistency_proof(
        self, request: pb.ConsistencyProofRequest
    ) -> pb.ConsistencyProofResponse:
        """Returns what shows that the log only grew."""
        proof = await self._read(
            lambda database: self._log.consistency(
                database, request.origin, _place(request.size)
            )
        )
        return proof_to_wire(proof)

    async def receipts(
        self, site: str, request: pb.ReceiptsRequest
    ) -> pb.ReceiptsResponse:
        """Returns receipts of the site that asks, and of no other."""
        if request.request_id:
            if len(request.request_id) != REQUEST_ID_BYTES:
                raise UnknownEntryError("no query has a request id of this length")
            found = await self._read(
                lambda database: self._log.receipts(database, site, request.request_id)
            )
        else:
            found = await self._read(
                lambda database: self._log.receipts_from(
                    database, site, request.origin, _place(request.from_place)
                )
            )
        return pb.ReceiptsResponse(receipts=map(receipt_to_wire, found))

    async def _read(self, question: Callable[[Connection], T]) -> T:
        return await asyncio.to_thread(self._books.read, question)


def _place(number: int) -> int:
    """Returns a place that a database can look for."""
    if number > _LAST_PLACE:
        raise UnknownEntryError(f"no log is so long as to have a place {number}")
    return number


class AuditServicer(AuditServiceServicer):
    """Serves moma.v1.AuditService; a site's receipts are sealed, the rest is no secret.

    Args:
        answers: What is shown.
        desk: Opens and seals.
    """

    def __init__(self, answers: AuditAnswers, desk: SealedDesk) -> None:
        self._answers = answers
        self._desk = desk

    async def LatestCheckpoint(  # noqa: N802
        self, request: pb.LatestCheckpointRequest, _context: Context
    ) -> pb.LatestCheckpointResponse:
        """Returns the newest state of a log."""
        return await self._answers.latest_checkpoint(request)

    async def InclusionProof(  # noqa: N802
        self, request: pb.InclusionProofRequest, _context: Context
    ) -> pb.InclusionProofResponse:
        """Returns an entry that is about no query."""
        return await self._answers.inclusion_proof(request)

    async def ConsistencyProof(  # noqa: N802
        self, request: pb.ConsistencyProofRequest, _context: Context
    ) -> pb.ConsistencyProofResponse:
        """Returns what shows that the log only grew."""
        return await self._answers.consistency_proof(request)

    async def Receipts(  # noqa: N802
        self, request: SealedRequest, _context: Context
    ) -> SealedResponse:
        """Returns receipts of the site that signed."""
        return await self._desk.once(
            "Receipts", pb.ReceiptsRequest, request, self._answers.receipts
        )
