"""moma.v1.AuditService: what the log's keeper shows, and to whom."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.entry import PolicyEntry, decode
from moma_core.audit.ledger import Ledger
from moma_core.audit.log import Proof
from moma_core.errors import UnknownEntryError
from moma_core.teacher.query import REQUEST_ID_BYTES
from moma_proto.convert.audit import (
    checkpoint_to_wire,
    proof_to_wire,
    receipt_to_wire,
)
from moma_proto.v1 import audit_pb2 as pb
from moma_proto.v1.audit_pb2_grpc import AuditServiceServicer
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse
from moma_server.rpc.limits import Context
from moma_server.teacher.query.policy_log import POLICY
from moma_server.teacher.wire.unseal import SealedEndpoint

T = TypeVar("T")

_LAST_PLACE = 2**53


class AuditAnswers:
    """Answers what a site asks about the log, however its questions came.

    Args:
        ledger: Read only.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._log = ledger.log

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
        self, _site: str, request: pb.ConsistencyProofRequest
    ) -> pb.ConsistencyProofResponse:
        """Returns what shows that the log only grew, or what there is instead."""
        return proof_to_wire(
            await self._read(lambda database: self._grown(database, request))
        )

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

    def _grown(
        self, database: Connection, request: pb.ConsistencyProofRequest
    ) -> Proof:
        """What cannot be proved is answered as well: with what is signed instead."""
        origin = request.origin
        try:
            sizes = _place(request.size), _place(request.later_size)
            return self._log.consistency(database, origin, *sizes)
        except UnknownEntryError:
            return Proof((), self._newest(database, origin))

    def _newest(self, database: Connection, origin: str) -> Checkpoint:
        try:
            return self._log.latest(database, origin)
        except UnknownEntryError:
            return self._log.latest(database)

    async def _read(self, question: Callable[[Connection], T]) -> T:
        return await asyncio.to_thread(self._ledger.read, question)


def _place(number: int) -> int:
    """Returns a place that a database can look for."""
    if number > _LAST_PLACE:
        raise UnknownEntryError(f"no log is so long as to have a place {number}")
    return number


class AuditServicer(AuditServiceServicer):
    """Serves moma.v1.AuditService.

    Sealed is what is a site's own, and what would accuse the teacher if it was forged.

    Args:
        answers: What is shown.
        desk: Opens and seals.
    """

    def __init__(self, answers: AuditAnswers, endpoint: SealedEndpoint) -> None:
        self._answers = answers
        self._endpoint = endpoint

    async def LatestCheckpoint(
        self, request: pb.LatestCheckpointRequest, _context: Context
    ) -> pb.LatestCheckpointResponse:
        """Returns the newest state of a log."""
        return await self._answers.latest_checkpoint(request)

    async def InclusionProof(
        self, request: pb.InclusionProofRequest, _context: Context
    ) -> pb.InclusionProofResponse:
        """Returns an entry that is about no query."""
        return await self._answers.inclusion_proof(request)

    async def ConsistencyProof(
        self, request: SealedRequest, _context: Context
    ) -> SealedResponse:
        """Returns what shows that the log only grew."""
        return await self._endpoint.once(
            "ConsistencyProof",
            pb.ConsistencyProofRequest,
            request,
            self._answers.consistency_proof,
        )

    async def Receipts(
        self, request: SealedRequest, _context: Context
    ) -> SealedResponse:
        """Returns receipts of the site that signed."""
        return await self._endpoint.once(
            "Receipts", pb.ReceiptsRequest, request, self._answers.receipts
        )
