"""Where requests are authenticated and opened, and responses sealed and signed.

Once a request is opened, whatever is decided about it goes back sealed, a response or a
refusal alike. What cannot be, since there is no reply key, is a status. Nothing is put
down to a site before its own key has signed: anybody may have sent it.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from moma_core.end_to_end.sealed_messages import (
    MessageContext,
    OpenedRequest,
    Parties,
    Sealed,
    check_sender,
    open_request,
)
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import (
    INTERNAL,
    MalformedRequestError,
    MomaError,
    NotAuthorizedError,
    meaning_of,
)
from moma_core.pki.identity import NAME_PATTERN
from moma_core.teacher.card.bounds import Description
from moma_core.teacher.card.signed import IssuedCard, SignedCard
from moma_core.teacher.refusal import Refusal
from moma_proto.convert import sealed as convert
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse
from moma_server.metrics.metrics import TeacherMetrics
from moma_server.rpc.authorization import caller
from moma_server.rpc.limits import read_message
from moma_server.rpc.places import Place, SitePlaces
from moma_server.teacher.end_to_end.identity import TeacherIdentity

MessageT = TypeVar("MessageT", bound=Message)

_logger = logging.getLogger(__name__)

_OTHER_FIELDS = 1024  # beside a picture for each patch


class UnsealedRequest(Generic[MessageT]):
    """A request that was opened, with all that its response needs.

    Args:
        request: Request as it came.
        kind: Type of the message that it should enclose.
        opened: Its content, and the key that its response is sealed to.
        signing: The teacher's signing key.
        most_fields: Fields that the message may have.
        place: The site's place, in which its work is done until it is charged.
    """

    def __init__(
        self,
        request: SealedRequest,
        kind: type[MessageT],
        opened: OpenedRequest,
        signing: SigningKey,
        most_fields: int,
        place: Place,
    ) -> None:
        self.place = place
        self.site = request.site
        self.request_id = request.request_id
        self.issued_ms = request.issued_ms
        self.digest = opened.digest
        self._kind = kind
        self._opened = opened
        self._signing = signing
        self._most_fields = most_fields

    def read(self) -> MessageT:
        """Returns the enclosed message; once, as it is not kept.

        Raises:
            MalformedRequestError: It is of another kind.
        """
        content = self._opened.take_message()
        convert.count_fields(content, self._most_fields)
        message = self._kind()
        try:
            message.MergeFromString(cast("bytes", content))  # not copied
        except DecodeError:
            raise MalformedRequestError("the sealed message is not readable") from None
        return message

    def seal(self, content: Message | Refusal) -> SealedResponse:
        """Seals and signs a response, or the refusal in its place."""
        if isinstance(content, Refusal):
            inner = convert.refusal_content(content)
        else:
            inner = convert.response_content(content.SerializeToString())
        return convert.response_to_wire(self._opened.respond(inner, self._signing))


class SealedEndpoint:
    """Opens what pinned sites signed, refuses all else, and seals the responses.

    Args:
        identity: Keys of the teacher, and the sites that its owner approved.
        description: Card and bounds of the teacher, which every request is about.
        metrics: Counts what is rejected and is no query.
        log_rejected: Logs a rejected query by its site, reason and request id: one that
            a site signed and nobody can open.
    """

    def __init__(
        self,
        identity: TeacherIdentity,
        description: Description,
        metrics: TeacherMetrics,
        log_rejected: Callable[[str, str, bytes], Awaitable[None]],
    ) -> None:
        self.description = description
        self._identity = identity
        self._metrics = metrics
        self._log_rejected = log_rejected
        issued = IssuedCard(identity.federation, 0, description, ())
        self._card_digest = issued.card_digest
        self._places = SitePlaces()
        self._most_fields = _OTHER_FIELDS + description.bounds.max_patches

    def card(self) -> SignedCard:
        """Returns the card as it is now."""
        return self._identity.card(self.description)

    def received(self, content: bytes) -> SealedRequest:
        """Reads a request as it came, of which nothing is believed yet.

        Raises:
            MalformedRequestError: It is not readable.
        """
        try:
            return read_message(SealedRequest.FromString, content)
        except MalformedRequestError as error:
            self.count_rejected("", error)
            raise

    @asynccontextmanager
    async def open(
        self,
        method: str,
        kind: type[MessageT],
        request: SealedRequest,
        *,
        position: int = 0,
    ) -> AsyncIterator[UnsealedRequest[MessageT]]:
        """Authenticates the site of a request, and yields it opened, in its place.

        Args:
            method: Name of the method that was called.
            kind: Type of the enclosed message.
            request: Request as it came.
            position: Index of the message in its call.

        Raises:
            NotAuthorizedError: The site did not sign it for here, is not approved, or
                is not the one that the connection belongs to.
            MalformedRequestError: It breaks a bound, or does not open.
        """
        self._check_form(request)
        context = MessageContext(
            method=method,
            request_id=request.request_id,
            position=position,
            issued_ms=request.issued_ms,
        )
        if caller() is None:  # a relay's: no other site takes the places of this one
            await asyncio.to_thread(self._check_sender, context, request)
        async with self._places.take(request.site) as place:
            try:
                opened = await place.run(lambda: self._open(context, request))
            except MalformedRequestError as error:  # but signed
                reason = meaning_of(error).denial or ""
                await self._log_rejected(request.site, reason, request.request_id)
                await place.rest()
                raise
            signing, most = self._identity.signing, self._most_fields
            yield UnsealedRequest(request, kind, opened, signing, most, place)

    async def respond(
        self, request: UnsealedRequest[MessageT], work: Awaitable[Message]
    ) -> SealedResponse:
        """Seals the response that `work` returns, or why there is none.

        Nothing that `work` raises becomes a status: a carrier would read it, and could
        have made it up.
        """
        content: Message | Refusal
        try:
            content = await work
        except Exception as error:
            if meaning_of(error) is INTERNAL:
                _logger.error("unexpected error over a request", exc_info=error)
            content = Refusal.of(error)
        return await asyncio.to_thread(request.seal, content)

    async def respond_once(
        self,
        method: str,
        kind: type[MessageT],
        sealed: SealedRequest,
        work: Callable[[str, MessageT], Awaitable[Message]],
    ) -> SealedResponse:
        """Opens, does and seals a call that acts at once and is accepted once.

        Args:
            method: Name of the method that was called.
            kind: Type of the enclosed message.
            sealed: Request as it came.
            work: Returns the response to a site's message.

        Raises:
            NotAuthorizedError: As `open`.
            MalformedRequestError: As `open`.
        """
        async with self.open(method, kind, sealed) as request:

            async def done() -> Message:
                message = await self.read_once(request)
                request.place.leave()
                return await work(request.site, message)

            return await self.respond(request, done())

    async def read_once(self, request: UnsealedRequest[MessageT]) -> MessageT:
        """Returns the message of a call that acts at once and is accepted once.

        Raises:
            MalformedRequestError: It is of another kind.
            ReplayError: It came before; other errors as `ReplayGuard.accept_once`.
        """
        once = (request.site, request.request_id, request.issued_ms)
        try:
            await asyncio.to_thread(self._identity.replay_guard.accept_once, *once)
        except MomaError as error:
            self.count_rejected("", error)  # whoever carries it repeats it
            raise
        try:
            return request.read()
        except MalformedRequestError as error:
            self.count_rejected(request.site, error)
            raise

    def count_rejected(self, site: str, error: MomaError) -> None:
        """Counts a call that is no query and was rejected; failures do not count.

        Args:
            site: Site whose key signed it; empty: nobody knows who sent it.
            error: Why it was rejected.
        """
        reason = meaning_of(error).denial
        if reason is not None:
            teacher = self.description.card.name
            self._metrics.denied.labels(site, teacher, reason).inc()

    def _check_form(self, request: SealedRequest) -> None:
        fault = _fault(request)
        if fault:
            error = MalformedRequestError(fault)
            self.count_rejected("", error)
            raise error
        peer = caller()
        if peer is not None and peer.name != request.site:
            raise NotAuthorizedError(
                f"the connection is of site {peer.name}, the request of {request.site}"
            )

    def _check_sender(self, context: MessageContext, request: SealedRequest) -> None:
        key = self._identity.pinned_sites.key_of(request.site)
        sealed = Sealed(request.sealed, request.signature)
        check_sender(context, self._parties(request), sealed, key, request.key_id)

    def _open(self, context: MessageContext, request: SealedRequest) -> OpenedRequest:
        return open_request(
            context,
            self._parties(request),
            Sealed(request.sealed, request.signature),
            self._identity.pinned_sites.key_of(request.site),
            (request.key_id, self._identity.sealing.find),
        )

    def _parties(self, request: SealedRequest) -> Parties:
        return Parties(
            federation=self._identity.federation,
            site=request.site,
            teacher=self.description.card.name,
            card_digest=self._card_digest,
        )


def _fault(request: SealedRequest) -> str:
    if not re.fullmatch(NAME_PATTERN, request.site):
        return "the sealed message names no site"
    for name, value, length in convert.fixed_lengths(request):
        if len(value) != length:
            return f"a {name} has {length} bytes, got {len(value)}"
    return ""
