"""Where questions are checked and opened, and answers sealed and signed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from moma_core.errors import MalformedRequestError, NotAdmittedError, ReplayError
from moma_core.teacher.issued_card import IssuedCard, SignedCard
from moma_core.teacher.query import Description
from moma_core.trust.names import NAME_PATTERN
from moma_core.trust.sealed_exchange import (
    OpenedQuestion,
    Parties,
    Place,
    Sealed,
    open_question,
)
from moma_core.trust.signing import SigningKey
from moma_proto.v1 import convert_sealed
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse
from moma_server.metrics import TeacherMetrics
from moma_server.teacher.admission import caller
from moma_server.teacher.freshness import Freshness
from moma_server.teacher.trust import EndToEnd
from moma_server.teacher.verdicts import verdict_on

MessageT = TypeVar("MessageT", bound=Message)


class Question(Generic[MessageT]):
    """What a site asked, as it was before it was sealed.

    Args:
        site: Who signed it.
        request_id: Of the sealed message.
        message: What was enclosed.
        opened: Seals the answer.
        signing: The teacher's key.
    """

    def __init__(
        self,
        site: str,
        request_id: bytes,
        message: MessageT,
        opened: OpenedQuestion,
        signing: SigningKey,
    ) -> None:
        self.site = site
        self.request_id = request_id
        self.message = message
        self._opened = opened
        self._signing = signing

    @property
    def digest(self) -> bytes:
        """SHA-256 of the sealed question."""
        return self._opened.digest

    def answer(self, message: Message) -> SealedResponse:
        """Seals and signs what the site is told."""
        content = message.SerializeToString()
        return convert_sealed.answer_to_wire(
            self._opened.answer(content, self._signing)
        )


class SealedDesk:
    """Opens what approved sites signed, and refuses all else.

    Args:
        end_to_end: Keys, and whom the teacher's owner approved.
        description: Card and bounds: a question is about these.
        metrics: Gets what is denied.
    """

    def __init__(
        self, end_to_end: EndToEnd, description: Description, metrics: TeacherMetrics
    ) -> None:
        self._end_to_end = end_to_end
        self._description = description
        self._teacher = description.card.name
        self._terms = IssuedCard(end_to_end.federation, 0, description, ()).terms
        self._metrics = metrics
        self._freshness = Freshness(end_to_end.clock)

    def card(self) -> SignedCard:
        """Returns the card as it is now."""
        return self._end_to_end.issuer.issue(self._description)

    def open(
        self,
        method: str,
        kind: type[MessageT],
        request: SealedRequest,
        *,
        position: int = 0,
    ) -> Question[MessageT]:
        """Returns a question that may be repeated.

        Args:
            method: By which it came.
            kind: What it holds.
            request: As it came.
            position: In its call.

        Raises:
            NotAdmittedError: Its site did not sign it for here, or is not approved,
                or not the one that the connection belongs to.
            MalformedRequestError: It breaks a bound, or holds something else.
        """
        with self._denials_counted(_connected_site()):
            return self._open(method, kind, request, position)

    def open_once(
        self, method: str, kind: type[MessageT], request: SealedRequest
    ) -> Question[MessageT]:
        """Returns a question that acts at once, and is taken once.

        Raises:
            ReplayError: It came before; else as `open`, and `Freshness.take`.
        """
        question = self.open(method, kind, request)
        with self._denials_counted(question.site):
            self._freshness.take(question.site, question.request_id, request.issued_ms)
        return question

    def _open(
        self, method: str, kind: type[MessageT], request: SealedRequest, position: int
    ) -> Question[MessageT]:
        _check_form(request)
        site = request.site
        connected = _connected_site()
        if connected and connected != site:
            raise NotAdmittedError(
                f"the connection is of site {connected}, the question of {site}"
            )
        place = Place(
            method=method,
            request_id=request.request_id,
            position=position,
            issued_ms=request.issued_ms,
        )
        trust = self._end_to_end
        opened = open_question(
            place,
            Parties(
                federation=trust.federation,
                site=site,
                teacher=self._teacher,
                terms=self._terms,
            ),
            Sealed(request.sealed, request.signature),
            trust.approvals.key_of(site),
            (request.key_id, trust.sealing.find),
        )
        try:
            message = kind()
            message.MergeFromString(cast("bytes", opened.message))  # where they are
        except DecodeError:
            raise MalformedRequestError("the sealed message is not readable") from None
        return Question(site, request.request_id, message, opened, trust.signing)

    def deny(self, site: str, reason: str) -> None:
        """Counts what was refused."""
        self._metrics.denied.labels(site, self._teacher, reason).inc()

    def deny_caller(self, reason: str) -> None:
        """Counts what was refused before a site signed for it."""
        self.deny(_connected_site(), reason)

    @contextmanager
    def _denials_counted(self, site: str) -> Iterator[None]:
        """Counts what the gate does not: it knows of those who are not admitted."""
        try:
            yield
        except (MalformedRequestError, ReplayError) as error:
            self.deny(site, verdict_on(error).reason or "")
            raise


def _connected_site() -> str:
    """Returns the site of the connection; empty where a relay brought the call."""
    peer = caller()
    return "" if peer is None else peer.name


def _check_form(request: SealedRequest) -> None:
    if not re.fullmatch(NAME_PATTERN, request.site):
        raise MalformedRequestError("the sealed message names no site")
    for name, value, length in convert_sealed.fixed_lengths(request):
        if len(value) != length:
            raise MalformedRequestError(
                f"a {name} has {length} bytes, got {len(value)}"
            )
