"""Sealed calls to a teacher: all that a site sends is signed, whoever carries it.

`RequestSealer` checks the teacher's card and seals to its keys, `SealedTeacherClient`
makes the calls, from the first look at the card on.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from pydantic import BaseModel, ConfigDict, ValidationError

from moma_client.egress.to_teacher import TeacherEgress
from moma_client.identity.pinned_teacher import PinnedTeacher
from moma_client.teacher.channel import (
    EmbedResponses,
    LogMethod,
    TeacherChannel,
    TeacherMethod,
)
from moma_client.teacher.retry import ConnectionLostError, error_of
from moma_core.audit.checkpoint import Checkpoint, Proof
from moma_core.audit.receipt import Receipt
from moma_core.end_to_end.hpke import SUITES, is_as_strong
from moma_core.end_to_end.sealed_messages import (
    EXCHANGE_ID_BYTES,
    MessageContext,
    Parties,
    PendingResponse,
    seal_request,
)
from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import (
    CertificateError,
    NotAuthorizedError,
    TeacherUnavailableError,
)
from moma_core.runtime.files import locked, make_folder, write_private
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.signed import IssuedCard, SealingOffer, SignedCard
from moma_core.teacher.ema_update import SyncHead
from moma_core.teacher.query import PatchQuery
from moma_core.teacher.refusal import Refusal
from moma_proto.convert import audit as convert_audit
from moma_proto.convert import sealed as convert_sealed
from moma_proto.convert import teacher as convert
from moma_proto.v1 import audit_pb2
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse

MessageT = TypeVar("MessageT", bound=Message)


class SealedTeacherClient:
    """Makes single attempts; `Retries` repeat them where that helps.

    Args:
        channel: The channel to the teacher.
        sealer: Seals requests and opens responses.
        egress: Makes every message that leaves, and counts it.
        check_trusted: Called before a card is requested; raises a RefusedError where
            nothing may be requested of this teacher.
    """

    def __init__(
        self,
        channel: TeacherChannel,
        sealer: "RequestSealer",
        egress: TeacherEgress,
        check_trusted: Callable[[], None],
    ) -> None:
        self._channel, self._sealer, self._egress = channel, sealer, egress
        self._check_trusted = check_trusted
        self._card: TeacherCard | None = None

    @property
    def card(self) -> TeacherCard:
        """The card that was described last; all requests and responses are about it."""
        if self._card is None:
            raise ValueError("no card was described")
        return self._card

    def describe(self) -> IssuedCard:
        """Returns the teacher's card after every check; later calls are about it.

        Raises:
            TeacherError: It cannot be reached, its log forked, or the card is not
                acceptable.
            CertificateError: The site's own keys are not acceptable.
        """
        self._check_trusted()
        response = self._channel.call("Describe", pb.DescribeRequest())
        issued = self._sealer.load(convert.signed_card_from_wire(response))
        self._card = issued.description.card
        return issued

    def embed(self, requests: Iterator[SealedRequest]) -> EmbedResponses:
        """Starts a stream of queries."""
        return self._channel.embed(_until_lost(requests))

    def seal_query(self, query: PatchQuery) -> tuple[SealedRequest, PendingResponse]:
        """Returns a query as it travels, and what opens its response."""
        parts = self._egress.patches(query)
        request, pending = self._sealer.seal("Embed", parts, query.request_id)
        self._egress.count(request.ByteSize())
        return request, pending

    def open_response(
        self, response: SealedResponse, pending: PendingResponse
    ) -> pb.EmbedResponse:
        """Returns the response to a query.

        Raises:
            TeacherError: It is not the teacher's, or not to this query, or the teacher
                refused.
        """
        return self._opened(pb.EmbedResponse, response, pending)

    def call(
        self,
        method: TeacherMethod | LogMethod,
        messages: Iterable[Message],
        kind: type[MessageT],
        seconds: float | None = None,
    ) -> MessageT:
        """Returns the response to a call that has one.

        Args:
            method: Name of the method.
            messages: One, or several for a method that takes a stream.
            kind: Type of the response.
            seconds: Deadline of the response; by default that of the handshake.

        Raises:
            TeacherError: The teacher refused, or what came is not its response.
        """
        if not self._sealer.is_ready:
            self.describe()
        pending: list[PendingResponse] = []
        requests = self._sealed(method, messages, pending)
        is_stream = method == "SyncMomentum"
        request = _until_lost(requests) if is_stream else next(requests)
        response = self._channel.call(method, request, seconds)
        if not pending:
            raise TeacherUnavailableError("the teacher responded before any request")
        return self._opened(kind, response, pending[0])

    def sync_momentum(self, head: SyncHead, content: bytes, seconds: float) -> None:
        """Sends the student's weights to a momentum session.

        Raises:
            PolicyError: The site does not let weights leave.
            TeacherError: As `call` does.
        """
        messages = self._egress.weights(head, content)
        self.call("SyncMomentum", messages, pb.SyncMomentumResponse, seconds)

    def close_session(self, session: bytes) -> None:
        """Closes a momentum session if the channel is open; it may fail silently."""
        if self._sealer.is_ready:
            message = pb.CloseSessionRequest(session_id=session)
            requests = self._sealed("CloseSession", [message], [])
            self._channel.last_call("CloseSession", requests)

    def latest_checkpoint(self, origin: str) -> Checkpoint:
        """Returns the newest state of a log; of the open one for an empty name."""
        request = audit_pb2.LatestCheckpointRequest(origin=origin)
        response = self._channel.call("LatestCheckpoint", request)
        return convert_audit.checkpoint_from_wire(response.checkpoint)

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
        return convert_audit.proof_from_wire(
            self.call("ConsistencyProof", [request], kind)
        )

    def opening(self, origin: str) -> Receipt:
        """Returns the first entry of a log; its own signature says whether it is true.

        Raises:
            AuditError: It breaks its contract.
            TeacherError: The teacher does not answer.
        """
        request = audit_pb2.InclusionProofRequest(origin=origin, place=0)
        response = self._channel.call("InclusionProof", request)
        return convert_audit.receipt_from_wire(response.receipt)

    def receipts(self, origin: str, first: int) -> list[Receipt]:
        """Returns this site's next receipts of a log, from an index on.

        Raises:
            AuditError: They break their contract.
            TeacherError: The teacher does not answer.
        """
        request = audit_pb2.ReceiptsRequest(origin=origin, from_place=first)
        kind = audit_pb2.ReceiptsResponse
        return convert_audit.receipts_from_wire(self.call("Receipts", [request], kind))

    def forget(self) -> None:
        """Drops the card: the teacher may have another one when it is found again."""
        self._sealer.forget()

    def _sealed(
        self, method: str, messages: Iterable[Message], pending: list[PendingResponse]
    ) -> Iterator[SealedRequest]:
        request_id = os.urandom(EXCHANGE_ID_BYTES)
        for position, message in enumerate(messages):
            parts = (message.SerializeToString(),)
            request, opener = self._sealer.seal(method, parts, request_id, position)
            pending.append(opener)
            self._egress.count(request.ByteSize())
            yield request

    def _opened(
        self, kind: type[MessageT], response: SealedResponse, pending: PendingResponse
    ) -> MessageT:
        content = self._sealer.open(response, pending)
        found = convert_sealed.content_from_sealed(content)
        if isinstance(found, Refusal):
            raise error_of(found)
        try:
            return kind.FromString(found)
        except DecodeError:
            message = "the teacher's response is not readable"
            raise TeacherUnavailableError(message) from None


def _until_lost(requests: Iterator[SealedRequest]) -> Iterator[SealedRequest]:
    """Yields the requests of a stream, which gRPC takes in a thread of its own.

    A card is dropped after its channel was closed: then the stream is lost, as its
    caller knows, and gRPC would only print a traceback.
    """
    with suppress(ConnectionLostError):
        yield from requests


class RequestSealer:
    """Seals requests to the keys of a card, and opens their responses.

    Safe to use from several threads once a card was loaded.

    Args:
        pinned: Site and teacher, and their keys.
        now: The present, with a time zone.
    """

    def __init__(self, pinned: PinnedTeacher, now: Callable[[], datetime]) -> None:
        self._pinned = pinned
        self._memory = CardMemory(pinned.card_memory)
        self._now = now
        self._signing: SigningKey | None = None
        self._sealed_to: tuple[Parties, SealingOffer] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether there is a key whose time is not over."""
        return (
            self._sealed_to is not None and self._now() < self._sealed_to[1].not_after
        )

    def load(self, signed: SignedCard) -> IssuedCard:
        """Returns a card after every check; requests are sealed to its keys.

        Raises:
            NotAuthorizedError: It is not the pinned teacher's, not of this federation,
                older than one that was seen, or has no key that is strong enough.
            TeacherUnavailableError: It cannot be true.
            CertificateError: The site's own signing key cannot be read.
        """
        pinned = self._pinned
        card = IssuedCard.opened(signed, pinned.teacher_key)
        found = (card.federation, card.description.card.name)
        if found != (pinned.federation, pinned.teacher):
            raise NotAuthorizedError(
                f"the card is of teacher {found[1]} in {found[0]}, not "
                f"{pinned.teacher} in {pinned.federation}"
            )
        offer = self._strongest(card)
        self._memory.note(card, pinned.teacher_key)
        if self._signing is None:
            self._signing = SigningKey.load(pinned.signing_key, pinned.passphrase_file)
        parties = Parties(
            federation=pinned.federation,
            site=pinned.site,
            teacher=pinned.teacher,
            card_digest=card.card_digest,
        )
        self._sealed_to = (parties, offer)
        return card

    def forget(self) -> None:
        """Drops the card, so that the next request needs a new one."""
        self._sealed_to = None

    def seal(
        self,
        method: str,
        message: Sequence[bytes | memoryview],
        request_id: bytes,
        position: int = 0,
    ) -> tuple[SealedRequest, PendingResponse]:
        """Returns a request as it travels, and what opens its response.

        Args:
            method: Name of the method that is called.
            message: The serialized message, in parts.
            request_id: Id of the call that the request is part of.
            position: Position of the request within its call.

        Raises:
            ConnectionLostError: The card was dropped, as its connection is lost.
        """
        if self._signing is None:
            raise ValueError("no card was ever loaded")
        sealed_to = self._sealed_to  # another thread may drop it meanwhile
        if sealed_to is None:
            raise ConnectionLostError("the teacher's card was dropped")
        parties, offer = sealed_to
        context = MessageContext(
            method=method,
            request_id=request_id,
            position=position,
            issued_ms=int(self._now().timestamp() * 1000),
        )
        sealed, pending = seal_request(
            context, parties, message, offer.key, self._signing
        )
        request = convert_sealed.sealed_request_to_wire(
            parties.site, context, offer.key.key_id, sealed
        )
        return request, pending

    def open(self, response: SealedResponse, pending: PendingResponse) -> bytes:
        """Returns what the teacher enclosed.

        Raises:
            NotAuthorizedError: It is not the teacher's, or to another request.
        """
        sealed = convert_sealed.response_from_wire(response)
        return pending.open(sealed, self._pinned.teacher_key)

    def _strongest(self, card: IssuedCard) -> SealingOffer:
        floor, now = self._pinned.floor, self._now()
        usable = [
            offer
            for offer in card.offers
            if now < offer.not_after and is_as_strong(offer.key.suite, floor)
        ]
        if not usable:
            raise NotAuthorizedError(
                f"the teacher's card has no sealing key of suite {floor} or stronger "
                f"whose time is not over"
            )
        return max(usable, key=_preference)


def _preference(offer: SealingOffer) -> tuple[int, datetime]:
    return SUITES.index(offer.key.suite), offer.not_after


class _SeenCard(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    issued: int
    digest: str


class CardMemory:
    """Remembers one teacher's newest card; processes of one site share the file.

    Args:
        path: The file; it is made when a first card is seen.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, card: IssuedCard, key: VerifyingKey) -> None:
        """Takes a card that is the newest seen, or the same.

        Args:
            card: A card whose signature was checked.
            key: The key that signed it; another key's cards are another series.

        Raises:
            NotAuthorizedError: It is older than one that was seen, or another one of
                the same issue.
            CertificateError: The file is damaged.
        """
        digest = hashlib.sha256(card.to_json()).hexdigest()
        found = _SeenCard(key=str(key), issued=card.issued, digest=digest)
        make_folder(self._path.parent)
        with locked(self._path.parent):
            seen = self._read()
            if seen == found:
                return
            if seen is not None and seen.key == found.key:
                _check_newer(found, seen)
            write_private(self._path, found.model_dump_json().encode())

    def _read(self) -> _SeenCard | None:
        try:
            return _SeenCard.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise CertificateError(
                f"cannot read which teacher's card was seen last: {self._path}"
            ) from None


def _check_newer(found: _SeenCard, seen: _SeenCard) -> None:
    if found.issued == seen.issued:
        raise NotAuthorizedError(
            f"the teacher has two cards of one issue, {seen.issued}"
        )
    if found.issued < seen.issued:
        raise NotAuthorizedError(
            f"the teacher's card is of issue {found.issued}, older than {seen.issued}, "
            f"which was seen before"
        )
