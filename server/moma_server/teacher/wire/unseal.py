"""Where questions are checked and opened, and answers sealed and signed.

Once a question is opened, whatever is decided about it goes back sealed, an answer or
a refusal alike. What cannot be, since there is no reply key, is a status. Nothing is
put down to a site before its own key has signed: anybody may have sent it.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable

from google.protobuf.message import Message

from moma_core.end_to_end.sealed_messages import (
    MessageContext,
    OpenedRequest,
    Parties,
    Sealed,
    open_request,
)
from moma_core.errors import (
    INTERNAL,
    MalformedRequestError,
    MomaError,
    NotAuthorizedError,
    meaning_of,
)
from moma_core.pki.names import NAME_PATTERN
from moma_core.teacher.card.bounds import Description
from moma_core.teacher.card.signed import IssuedCard, SignedCard
from moma_core.teacher.refusal import Refusal
from moma_proto.convert import sealed as convert_sealed
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse
from moma_server.metrics.metrics import TeacherMetrics
from moma_server.rpc.authorization import caller
from moma_server.teacher.end_to_end.identity import TeacherIdentity
from moma_server.teacher.end_to_end.request import MessageT, UnsealedRequest
from moma_server.teacher.query.billing import BillingService, RejectedQuery

_logger = logging.getLogger(__name__)

_OTHER_FIELDS = 1024  # beside a picture for each patch


class SealedEndpoint:
    """Opens what approved sites signed, and refuses all else.

    Args:
        end_to_end: Keys, and whom the teacher's owner approved.
        description: Card and bounds: a question is about these.
        metrics: Gets what is denied and no query.
        charging: Logs what a site signed and nobody can open.
    """

    def __init__(
        self,
        end_to_end: TeacherIdentity,
        description: Description,
        metrics: TeacherMetrics,
        billing: BillingService,
    ) -> None:
        self._end_to_end = end_to_end
        self._description = description
        self._teacher = description.card.name
        self._card_digest = IssuedCard(
            end_to_end.federation, 0, description, ()
        ).card_digest
        self._most_fields = _OTHER_FIELDS + description.bounds.max_patches
        self._metrics, self._billing = metrics, billing
        self._replay_guard = end_to_end.replay_guard

    def card(self) -> SignedCard:
        """Returns the card as it is now."""
        return self._end_to_end.issuer.issue(self._description)

    async def open(
        self,
        method: str,
        kind: type[MessageT],
        request: SealedRequest,
        *,
        position: int = 0,
    ) -> UnsealedRequest[MessageT]:
        """Returns a question that its site signed for here.

        Args:
            method: By which it came.
            kind: What it holds.
            request: As it came.
            position: In its call.

        Raises:
            NotAuthorizedError: Its site did not sign it for here, or is not approved,
                or not the one that the connection belongs to.
            MalformedRequestError: It breaks a bound, or does not open.
        """
        self._check_form(request)
        place = MessageContext(
            method=method,
            request_id=request.request_id,
            position=position,
            issued_ms=request.issued_ms,
        )
        try:
            opened = await asyncio.to_thread(self._open, place, request)
        except MalformedRequestError as error:  # but signed
            reason = meaning_of(error).denial or ""
            denial = RejectedQuery(request.site, reason, request.request_id)
            await asyncio.shield(self._billing.deny(denial))
            raise
        signing = self._end_to_end.signing
        return UnsealedRequest(request, kind, opened, signing, self._most_fields)

    async def once(
        self,
        method: str,
        kind: type[MessageT],
        request: SealedRequest,
        work: Callable[[str, MessageT], Awaitable[Message]],
    ) -> SealedResponse:
        """Does what a question asks that acts at once, and is taken once.

        Args:
            method: By which it came.
            kind: What it holds.
            request: As it came.
            work: Is given the site and what it asks.

        Raises:
            As `open`.
        """
        question = await self.open(method, kind, request)

        async def done() -> Message:
            return await work(question.site, await self.read_once(question))

        return await self.reply(question, done)

    async def read_once(self, question: UnsealedRequest[MessageT]) -> MessageT:
        """Returns what a question encloses that acts at once, and is taken once.

        Raises:
            MalformedRequestError: It encloses something else.
            ReplayError: It came before; else as `ReplayGuard.take`.
        """
        taken = (question.site, question.request_id, question.issued_ms)
        try:
            await asyncio.to_thread(self._replay_guard.accept_once, *taken)
        except MomaError as error:
            self.deny("", meaning_of(error).denial)  # whoever carries it repeats it
            raise
        try:
            return question.read()
        except MalformedRequestError as error:
            self.deny(question.site, meaning_of(error).denial)
            raise

    async def reply(
        self,
        question: UnsealedRequest[MessageT],
        work: Callable[[], Awaitable[Message]],
    ) -> SealedResponse:
        """Does what a question asks, and seals what came of it.

        Nothing that `work` raises becomes a status: a carrier would read it, and could
        have made it up.
        """
        try:
            message = await work()
        except Exception as error:
            if meaning_of(error) is INTERNAL:
                _logger.error("unexpected error over a request", exc_info=error)
            return await asyncio.to_thread(question.refuse, Refusal.of(error))
        return await asyncio.to_thread(question.answer, message)

    def deny(self, site: str, reason: str | None) -> None:
        """Counts what was refused; a failure has no reason.

        Args:
            site: Whose key signed it; empty: nobody knows who sent it.
            reason: As the metric names it.
        """
        if reason is not None:
            self._metrics.denied.labels(site, self._teacher, reason).inc()

    def _check_form(self, request: SealedRequest) -> None:
        fault = _fault(request)
        if fault:
            error = MalformedRequestError(fault)
            self.deny("", meaning_of(error).denial)
            raise error
        peer = caller()
        if peer is not None and peer.name != request.site:
            raise NotAuthorizedError(
                f"the connection is of site {peer.name}, the question of {request.site}"
            )

    def _open(self, place: MessageContext, request: SealedRequest) -> OpenedRequest:
        trust = self._end_to_end
        return open_request(
            place,
            Parties(
                federation=trust.federation,
                site=request.site,
                teacher=self._teacher,
                card_digest=self._card_digest,
            ),
            Sealed(request.sealed, request.signature),
            trust.pinned_sites.key_of(request.site),
            (request.key_id, trust.sealing.find),
        )


def _fault(request: SealedRequest) -> str:
    if not re.fullmatch(NAME_PATTERN, request.site):
        return "the sealed message names no site"
    for name, value, length in convert_sealed.fixed_lengths(request):
        if len(value) != length:
            return f"a {name} has {length} bytes, got {len(value)}"
    return ""
