"""moma.v1.AuditService: what a teacher shows of its log, and to whom."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection

from moma_core.audit.checkpoint import Checkpoint, Proof
from moma_core.audit.entry import PolicyEntry, decode
from moma_core.audit.ledger import Ledger
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
from moma_server.rpc.authorization import caller
from moma_server.rpc.limits import Context
from moma_server.rpc.places import SitePlaces
from moma_server.teacher.end_to_end.endpoint import SealedEndpoint
from moma_server.teacher.query.upkeep import POLICY

T = TypeVar("T")

_LAST_INDEX = 2**53

_READS_PER_MINUTE = 120  # of a site: 30,000 receipts at once, and 500 a second


class AuditServicer(AuditServiceServicer):
    """Serves moma.v1.AuditService; the methods' names are the contract's.

    Sealed is what is a site's own, and what would accuse the teacher if it was forged.

    Args:
        ledger: Ledger of the log; only read.
        endpoint: Opens requests and seals responses.
    """

    def __init__(self, ledger: Ledger, endpoint: SealedEndpoint) -> None:
        self._ledger, self._log = ledger, ledger.log
        self._endpoint = endpoint
        self._places = SitePlaces(per_minute=_READS_PER_MINUTE)

    async def LatestCheckpoint(
        self, request: pb.LatestCheckpointRequest, _context: Context
    ) -> pb.LatestCheckpointResponse:
        """Returns the newest state of a log."""
        latest = partial(self._log.latest, origin=request.origin)
        newest = await self._read(_connected_site(), latest)
        return pb.LatestCheckpointResponse(checkpoint=checkpoint_to_wire(newest))

    async def InclusionProof(
        self, request: pb.InclusionProofRequest, _context: Context
    ) -> pb.InclusionProofResponse:
        """Returns an entry that is about no query, and names no site."""
        origin, index = request.origin, _index(request.place)
        receipt = await self._read(
            _connected_site(),
            lambda database: self._log.inclusion(database, origin, index),
        )
        entry = decode(receipt.leaf).entry
        if isinstance(entry, PolicyEntry) and entry.subject != POLICY:
            raise UnknownEntryError("the entry is about other sites")
        return pb.InclusionProofResponse(receipt=receipt_to_wire(receipt))

    async def ConsistencyProof(
        self, request: SealedRequest, _context: Context
    ) -> SealedResponse:
        """Returns what shows that the log only grew, or what there is instead."""
        return await self._endpoint.respond_once(
            "ConsistencyProof", pb.ConsistencyProofRequest, request, self._consistency
        )

    async def Receipts(
        self, request: SealedRequest, _context: Context
    ) -> SealedResponse:
        """Returns receipts of the site that signed, and of no other."""
        return await self._endpoint.respond_once(
            "Receipts", pb.ReceiptsRequest, request, self._receipts
        )

    async def _consistency(
        self, site: str, request: pb.ConsistencyProofRequest
    ) -> pb.ConsistencyProofResponse:
        return proof_to_wire(await self._read(site, partial(self._proof, request)))

    async def _receipts(
        self, site: str, request: pb.ReceiptsRequest
    ) -> pb.ReceiptsResponse:
        if request.request_id and len(request.request_id) != REQUEST_ID_BYTES:
            raise UnknownEntryError("no query has a request id of this length")
        first = _index(request.from_place)

        def found(database: Connection) -> pb.ReceiptsResponse:
            log = self._log
            if request.request_id:
                receipts = log.receipts(database, site, request.request_id)
            else:
                receipts = log.receipts_from(database, site, request.origin, first)
            return pb.ReceiptsResponse(receipts=map(receipt_to_wire, receipts))

        return await self._read(site, found)

    def _proof(
        self, request: pb.ConsistencyProofRequest, database: Connection
    ) -> Proof:
        """Where nothing can be proved, returns what is signed instead."""
        origin = request.origin
        try:
            sizes = _index(request.size), _index(request.later_size)
            return self._log.consistency(database, origin, *sizes)
        except UnknownEntryError:
            return Proof((), self._newest(database, origin))

    def _newest(self, database: Connection, origin: str) -> Checkpoint:
        try:
            return self._log.latest(database, origin)
        except UnknownEntryError:
            return self._log.latest(database)

    async def _read(self, site: str | None, query: Callable[[Connection], T]) -> T:
        """Reads the log: of one site one call at a time, and with rests between.

        Args:
            site: Whose call it is; None: a relay's, which says not whose and has bounds
                of its own.
            query: What is read, in a thread.
        """
        if site is None:
            return await asyncio.to_thread(self._ledger.read, query)
        async with self._places.take(site) as place:
            found = await place.run(lambda: self._ledger.read(query))
            await place.rest()
        return found


def _connected_site() -> str | None:
    peer = caller()
    return None if peer is None else peer.name


def _index(number: int) -> int:
    """Returns an index that a database can look for."""
    if number > _LAST_INDEX:
        raise UnknownEntryError(f"no log is so long as to have a place {number}")
    return number
