"""Calls to a teacher that are sealed, from the first look at its card on."""

import os
from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

from google.protobuf.message import DecodeError, Message

from moma_client.audit.log_monitor import LogMonitor
from moma_client.audit.log_proofs import LogProofs
from moma_client.audit.receipts import ReceiptBook
from moma_client.egress.to_teacher import TeacherEgress
from moma_client.teacher.channel import TeacherLink, start_sealed
from moma_client.teacher.retry import error_of
from moma_client.teacher.sealer import RequestSealer
from moma_client.teacher.stream import EmbedResponses
from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.log import Proof
from moma_core.audit.receipt import Expectation, Receipt
from moma_core.end_to_end.sealed_messages import EXCHANGE_ID_BYTES, PendingResponse
from moma_core.errors import AuditError, TeacherUnavailableError
from moma_core.teacher.card.signed import IssuedCard
from moma_core.teacher.query import PatchQuery
from moma_core.teacher.refusal import Refusal
from moma_proto.convert import teacher as convert
from moma_proto.convert.audit import (
    checkpoint_from_wire,
    proof_from_wire,
    receipt_from_wire,
    receipts_from_wire,
)
from moma_proto.convert.sealed import content_from_sealed
from moma_proto.v1 import audit_pb2
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse

MessageT = TypeVar("MessageT", bound=Message)
AboutLog = Literal["ConsistencyProof", "Receipts"]

_MOST_LOGS = 1000  # a teacher opens another once in a long while


class SealedCalls:
    """Makes single attempts; who wants more wraps them in `Retries`.

    Args:
        link: To the teacher.
        sealer: Seals and opens.
        gate: Through which everything leaves.
        receipts: Of the answers.
        monitor: What was seen of the teacher's log.

    Attributes:
        log: Has the log proved.
    """

    def __init__(
        self,
        link: TeacherLink,
        sealer: RequestSealer,
        egress: TeacherEgress,
        receipts: ReceiptBook,
        monitor: LogMonitor,
    ) -> None:
        self._link = link
        self._sealer = sealer
        self._egress = egress
        self._receipts = receipts
        self._monitor = monitor
        self.log = LogProofs(self, monitor)

    def describe(self) -> IssuedCard:
        """Returns the teacher's card after every check; later calls are about it.

        Raises:
            TeacherError: It cannot be reached, its log has shown two faces, or the
                card is not acceptable.
            CertificateError: The site's own keys are not acceptable.
        """
        self._monitor.check_trusted()
        response = self._link.ask(
            lambda stub, seconds: stub.Describe.future(
                pb.DescribeRequest(), timeout=seconds
            )
        )
        return self._sealer.load(convert.signed_card_from_wire(response))

    def call(
        self,
        method: str,
        messages: Iterable[Message],
        kind: type[MessageT],
        seconds: float | None = None,
    ) -> MessageT:
        """Returns the answer to a call that asks for no embedding.

        Args:
            method: Its name.
            messages: One, or several for a method that takes a stream.
            kind: Of the answer.
            seconds: In which it must be answered; by default the link's own deadline.

        Raises:
            TeacherError: The teacher refused, or what came is not its answer.
        """
        if not self._sealer.is_ready:
            self.describe()
        pending: list[PendingResponse] = []
        requests = self._sealed(method, messages, pending)
        response = self._link.ask(
            lambda stub, deadline: start_sealed(stub, method, requests, deadline),
            seconds,
        )
        if not pending:
            raise TeacherUnavailableError("the teacher answered before it was asked")
        return read(kind, self._sealer.open(response, pending[0]))

    def close_session(self, method: str, message: Message) -> None:
        """Makes a last call if the channel is open; nobody minds if it fails."""
        if not self._sealer.is_ready:
            return
        requests = self._sealed(method, [message], [])
        self._link.close_session(
            lambda stub, deadline: start_sealed(stub, method, requests, deadline)
        )

    def embed(self, requests: Iterator[SealedRequest]) -> EmbedResponses:
        """Starts a stream of queries."""
        return self._link.start(lambda stub: stub.Embed(requests))

    def seal_query(self, query: PatchQuery) -> tuple[SealedRequest, PendingResponse]:
        """Returns a query as it travels, and what opens its answer."""
        parts = self._egress.patches(query)
        request, pending = self._sealer.seal("Embed", parts, query.request_id)
        self._egress.count(request.ByteSize())
        return request, pending

    def open_answer(
        self, response: SealedResponse, pending: PendingResponse
    ) -> pb.EmbedResponse:
        """Returns the answer to a query.

        Raises:
            TeacherError: It is not the teacher's, or not to this query.
        """
        return read(pb.EmbedResponse, self._sealer.open(response, pending))

    def keep_receipt(self, response: pb.EmbedResponse, query: PatchQuery) -> None:
        """Keeps what proves an answer; without it the answer is not used.

        Raises:
            AuditError: There is none, or it is not true.
            LogForkError: It is of another log than was seen before.
        """
        if not response.HasField("receipt"):
            raise AuditError("the teacher's answer has no receipt of its log")
        own = Expectation(
            site=self._sealer.site,
            card=self._sealer.card,
            request_id=query.request_id,
            patches=len(query),
            digest=None if self._egress.is_lossy else query.digest(),
        )
        receipt = receipt_from_wire(response.receipt)
        self._receipts.check(receipt, own)
        self.log.see(receipt.checkpoint)
        self._receipts.keep([receipt])

    def fetch_receipts(self) -> int:
        """Keeps the receipts that are missing; returns how many.

        Of the open log, and of those before it that the pinned key has signed.

        Raises:
            AuditError: One is not true.
            TeacherError: The teacher does not answer.
        """
        self.log.compare()
        kept = self._receipts.places()
        added = 0
        for origin in self._origins():
            place = 0
            while found := self._receipts_from(origin, place):
                missing = self._receipts.missing(found, self._sealer.site, kept)
                for state in {receipt.checkpoint for receipt in missing}:
                    self.log.see(state)
                self._receipts.keep(missing)
                added += len(missing)
                if found[-1].place < place:
                    raise AuditError(f"the log {origin} shows its entries out of order")
                place = found[-1].place + 1
        return added

    def _origins(self) -> list[str]:
        """Returns the logs whose receipts the pinned key proves, the first one first.

        A key that was given up is not believed any more, here as everywhere.
        """
        name, _, newest = self._latest("").origin.rpartition("/")
        found: list[str] = []
        for number in range(int(newest), max(0, int(newest) - _MOST_LOGS), -1):
            if not self._receipts.proves(self._latest(f"{name}/{number}")):
                break
            found.insert(0, f"{name}/{number}")
        return found

    def _latest(self, origin: str) -> Checkpoint:
        request = audit_pb2.LatestCheckpointRequest(origin=origin)
        shown = self._link.ask(
            lambda _stub, seconds: self._link.audit().LatestCheckpoint.future(
                request, timeout=seconds
            )
        )
        return checkpoint_from_wire(shown.checkpoint)

    def growth(self, earlier: Checkpoint, later_size: int = 0) -> Proof:
        """Returns what shows how a log grew; 0: to its newest state.

        Raises:
            AuditError: It breaks its contract.
            TeacherError: The teacher does not answer.
        """
        request = audit_pb2.ConsistencyProofRequest(
            origin=earlier.origin, size=earlier.size, later_size=later_size
        )
        kind = audit_pb2.ConsistencyProofResponse
        return proof_from_wire(self._ask_log("ConsistencyProof", request, kind))

    def opening(self, origin: str) -> Receipt:
        """Returns the first entry of a log; its own signature says whether it is true.

        Raises:
            AuditError: It breaks its contract.
            TeacherError: The teacher does not answer.
        """
        request = audit_pb2.InclusionProofRequest(origin=origin, place=0)
        response = self._link.ask(
            lambda _stub, seconds: self._link.audit().InclusionProof.future(
                request, timeout=seconds
            )
        )
        return receipt_from_wire(response.receipt)

    def _receipts_from(self, origin: str, place: int) -> list[Receipt]:
        request = audit_pb2.ReceiptsRequest(origin=origin, from_place=place)
        kind = audit_pb2.ReceiptsResponse
        return receipts_from_wire(self._ask_log("Receipts", request, kind))

    def _ask_log(
        self, method: AboutLog, message: Message, kind: type[MessageT]
    ) -> MessageT:
        pending: list[PendingResponse] = []
        sealed = self._sealed(method, [message], pending)
        response = self._link.ask(
            lambda _stub, seconds: getattr(self._link.audit(), method).future(
                next(sealed), timeout=seconds
            )
        )
        return read(kind, self._sealer.open(response, pending[0]))

    def forget(self) -> None:
        """Drops the card: the teacher may have another one when it is found again."""
        self._sealer.forget()
        self.log.forget()

    def _sealed(
        self, method: str, messages: Iterable[Message], pending: list[PendingResponse]
    ) -> Iterator[SealedRequest]:
        request_id = os.urandom(EXCHANGE_ID_BYTES)
        for position, message in enumerate(messages):
            parts = (message.SerializeToString(),)
            request, answer = self._sealer.seal(method, parts, request_id, position)
            pending.append(answer)
            self._egress.count(request.ByteSize())
            yield request


def read(kind: type[MessageT], content: bytes) -> MessageT:
    """Returns what the teacher enclosed.

    Raises:
        MomaError: The teacher refused: see `Refusal`.
        TeacherUnavailableError: It is something else.
    """
    found = content_from_sealed(content)
    if isinstance(found, Refusal):
        raise error_of(found)
    try:
        return kind.FromString(found)
    except DecodeError:
        raise TeacherUnavailableError("the teacher's answer is not readable") from None
