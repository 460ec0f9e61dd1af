"""End-to-end keys for tests, and plain calls to a service whose messages are sealed."""

import hashlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message

from moma_core.end_to_end.hpke import SUITES, SealingKey
from moma_core.end_to_end.sealed_messages import (
    MessageContext,
    OpenedRequest,
    Parties,
    PendingResponse,
    Sealed,
    open_request,
    seal_request,
)
from moma_core.end_to_end.signatures import SigningKey
from moma_core.teacher.card.bounds import Description, RequestBounds
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.signed import IssuedCard, SealingOffer, SignedCard
from moma_core.teacher.refusal import Refusal
from moma_proto.convert import sealed as convert_sealed
from moma_proto.convert import teacher as convert
from moma_proto.v1 import audit_pb2
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse

TEACHER = "teacher-a"
TEACHER_KEY = "ed25519:5e2c8146cdd9eb3bbd00d1ec486da3fde3aecdc12501e70d9be5f75683c28302"
ANSWERS: dict[str, Any] = {
    "Embed": pb.EmbedResponse,
    "Budget": pb.BudgetResponse,
    "OpenSession": pb.OpenSessionResponse,
    "SyncMomentum": pb.SyncMomentumResponse,
    "CloseSession": pb.CloseSessionResponse,
    "ConsistencyProof": audit_pb2.ConsistencyProofResponse,
}


def key_of(party: str) -> SigningKey:
    """Returns a party's signing key, the same in every process."""
    secret = hashlib.sha256(party.encode()).digest()
    return SigningKey(Ed25519PrivateKey.from_private_bytes(secret))


def described(response: pb.DescribeResponse) -> Description:
    """Returns what the real teacher's signed card says."""
    signed = convert.signed_card_from_wire(response)
    return IssuedCard.opened(signed, key_of(TEACHER).public).description


class SiteSide:
    """Seals what a site asks, about a teacher's card.

    Args:
        card: Signed by the teacher.
        site: Who asks.
        key: Signs; by default the site's own.
        suite: Of the offer that is taken; by default the last one's.
        changed: What the context says otherwise.
    """

    def __init__(
        self,
        card: SignedCard,
        site: str = "site-a",
        *,
        key: SigningKey | None = None,
        suite: str | None = None,
        teacher_key: SigningKey | None = None,
        **changed: Any,
    ) -> None:
        self.teacher_key = (teacher_key or key_of(TEACHER)).public
        self.card = IssuedCard.opened(card, self.teacher_key)
        self.site = site
        self.key = key or key_of(site)
        self.offer = next(
            offer
            for offer in reversed(self.card.offers)
            if suite in (None, offer.key.suite)
        )
        parties = {
            "federation": self.card.federation,
            "site": site,
            "teacher": self.card.description.card.name,
            "card_digest": self.card.card_digest,
        }
        self.parties = Parties(**{**parties, **changed})

    def seal(
        self,
        method: str,
        message: Message | bytes,
        request_id: bytes | None = None,
        position: int = 0,
        issued_ms: int | None = None,
    ) -> tuple[SealedRequest, PendingResponse]:
        if isinstance(message, pb.EmbedRequest) and request_id is None:
            request_id = message.request_id
        place = MessageContext(
            method=method,
            request_id=os.urandom(16) if request_id is None else request_id,
            position=position,
            issued_ms=int(time.time() * 1000) if issued_ms is None else issued_ms,
        )
        content = message if isinstance(message, bytes) else message.SerializeToString()
        sealed, pending = seal_request(
            place, self.parties, [content], self.offer.key, self.key
        )
        key_id = self.offer.key.key_id
        return convert_sealed.sealed_request_to_wire(
            self.site, place, key_id, sealed
        ), pending

    def seal_all(
        self, method: str, messages: Iterable[Message], pending: deque[PendingResponse]
    ) -> Iterator[SealedRequest]:
        """Seals messages of one call as they are taken."""
        call_id = os.urandom(16)
        for position, message in enumerate(messages):
            is_query = method == "Embed"
            request, answer = self.seal(
                method,
                message,
                None if is_query else call_id,
                0 if is_query else position,
            )
            pending.append(answer)
            yield request

    def open(
        self, method: str, response: SealedResponse, answer: PendingResponse
    ) -> Any:
        """Returns the method's own response, or raises what the teacher refuses."""
        sealed = convert_sealed.response_from_wire(response)
        opened = answer.open(sealed, self.teacher_key)
        content = convert_sealed.content_from_sealed(opened)
        if isinstance(content, Refusal):
            raise content.error()
        return ANSWERS[method].FromString(content)


class TeacherSide:
    """Opens what `site-a` asks a scripted teacher, and seals what that says."""

    def __init__(
        self, key: SigningKey | None = None, suites: tuple[Any, ...] = SUITES
    ) -> None:
        self.key = key or key_of(TEACHER)
        self.sealing = [SealingKey.create(suite) for suite in suites]
        self.federation = "test-federation"
        self.issued = int(time.time())
        self.end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        self._last: TeacherCard | None = None

    def issue(self, card: TeacherCard) -> IssuedCard:
        return IssuedCard(
            self.federation,
            self.issued,
            Description(card, RequestBounds(card.input_size_px, 16)),
            tuple(SealingOffer(key.public, self.end) for key in self.sealing),
        )

    def card(self, card: TeacherCard) -> SignedCard:
        if self._last not in (None, card):
            self.issued += 1
        self._last = card
        return self.issue(card).signed(self.key)

    def opened(
        self, method: str, request: SealedRequest, card: TeacherCard
    ) -> OpenedRequest:
        place = MessageContext(
            method=method, request_id=request.request_id, issued_ms=request.issued_ms
        )
        parties = Parties(
            federation=self.federation,
            site=request.site,
            teacher=card.name,
            card_digest=self.issue(card).card_digest,
        )
        return open_request(
            place,
            parties,
            Sealed(request.sealed, request.signature),
            key_of(request.site).public,
            (request.key_id, self._find),
        )

    def sealed(self, question: OpenedRequest, answer: Message) -> SealedResponse:
        content = convert_sealed.response_content(answer.SerializeToString())
        return convert_sealed.response_to_wire(question.respond(content, self.key))

    def refused(self, question: OpenedRequest, error: Exception) -> SealedResponse:
        content = convert_sealed.refusal_content(Refusal.of(error))
        return convert_sealed.response_to_wire(question.respond(content, self.key))

    def _find(self, key_id: bytes) -> SealingKey:
        return next(key for key in self.sealing if key.public.key_id == key_id)


class SealedStub:
    """Looks like an asyncio stub whose messages are not sealed.

    Args:
        stub: gRPC's own.
        side: Seals.
    """

    def __init__(self, stub: Any, side: SiteSide) -> None:
        self.bare, self.side = stub, side
        self.Describe = stub.Describe

    def Embed(self, messages: Any = None, **options: Any) -> "SealedCall":
        return SealedCall(self, "Embed", messages, options)

    def SyncMomentum(self, messages: Any = None, **options: Any) -> Any:
        call = SealedCall(self, "SyncMomentum", messages, options)
        return call if messages is None else call.answer()

    def __getattr__(self, method: str) -> Any:
        async def once(message: Message, **options: Any) -> Any:
            request, pending = self.side.seal(method, message)
            response = await getattr(self.bare, method)(request, **options)
            return self.side.open(method, response, pending)

        return once


class SealedCall:
    """A running call; what it is given is sealed, what it gives was opened."""

    def __init__(
        self, stub: SealedStub, method: str, messages: Any, options: dict[str, Any]
    ) -> None:
        self._side, self._method = stub.side, method
        self._pending: deque[PendingResponse] = deque()
        self._id, self._written = os.urandom(16), 0
        start = getattr(stub.bare, method)
        if messages is None:
            self.bare = start(**options)
        else:
            sealed = self._side.seal_all(method, messages, self._pending)
            self.bare = start(sealed, **options)

    async def write(self, message: Message) -> None:
        is_query = self._method == "Embed"
        request, answer = self._side.seal(
            self._method,
            message,
            None if is_query else self._id,
            0 if is_query else self._written,
        )
        self._written += 1
        self._pending.append(answer)
        await self.bare.write(request)

    async def read(self) -> Any:
        return self._opened(await self.bare.read())

    async def answer(self) -> Any:
        return self._opened(await self.bare)

    def __await__(self) -> Any:
        return self.answer().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for response in self.bare:
            yield self._opened(response)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bare, name)

    def _opened(self, response: Any) -> Any:
        if not isinstance(response, SealedResponse):
            return response  # the end of the stream
        return self._side.open(self._method, response, self._pending.popleft())


class BlockingSealedStub:
    """Looks like a blocking stub whose messages are not sealed."""

    def __init__(self, stub: Any, side: SiteSide) -> None:
        self.bare, self.side = stub, side

    def Embed(self, messages: Any, **options: Any) -> Iterator[Any]:
        pending: deque[PendingResponse] = deque()
        sealed = self.side.seal_all("Embed", messages, pending)
        for response in self.bare.Embed(sealed, **options):
            yield self.side.open("Embed", response, pending.popleft())

    def SyncMomentum(self, messages: Any, **options: Any) -> Any:
        pending: deque[PendingResponse] = deque()
        sealed = self.side.seal_all("SyncMomentum", messages, pending)
        response = self.bare.SyncMomentum(sealed, **options)
        return self.side.open("SyncMomentum", response, pending[0])
