"""One question and its answer, sealed and signed between a site and a teacher.

Whoever carries them sees their sizes and can hold them back, and nothing else:

1. A question is sealed to a key on the teacher's signed card, and holds a reply key
   that is made for this one question. Its answer is sealed to that.
2. Both are signed with the parties' own keys, which each has pinned of the other.
3. What neither sends, both know: who asks whom, by which method, under which id, about
   which card; for an answer, also which sealed bytes it answers. All of it goes into
   seal and signature, so a message in any other place is refused.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from moma_core.end_to_end.hpke import SealingKey, SealingPublicKey, public_bytes
from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import CertificateError, MalformedRequestError, NotAuthorizedError

EXCHANGE_ID_BYTES = 16
SEALING_BYTES = 4096
"""What sealing adds to a message at most, generously."""

_QUESTION = "sealed question"
_ANSWER = "sealed answer"
_NUMBER_BYTES = 8
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """Who talks with whom about what.

    Args:
        federation: Both belong to it.
        site: Who asks.
        teacher: Who answers.
        card_digest: SHA-256 of the teacher's card and bounds (`IssuedCard.terms`).
    """

    federation: str
    site: str
    teacher: str
    card_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageContext:
    """Where a question belongs; one message has one place.

    Args:
        method: The gRPC method's name.
        request_id: 16 bytes, the site's own.
        position: In its call, where several messages have one id.
        issued_ms: When it was sealed, in milliseconds since 1970.
    """

    method: str
    request_id: bytes
    position: int = 0
    issued_ms: int

    def context(self, parties: Parties, key_id: bytes) -> bytes:
        """Returns the place in one spelling: each part with its length before it."""
        return _framed(
            parties.federation.encode(),
            parties.site.encode(),
            parties.teacher.encode(),
            parties.card_digest,
            self.method.encode(),
            self.request_id,
            self.position.to_bytes(_NUMBER_BYTES, "big"),
            self.issued_ms.to_bytes(_NUMBER_BYTES, "big"),
            key_id,  # names the suite, too
        )


class Sealed(NamedTuple):
    """What is carried of a message.

    Args:
        content: The sealed bytes.
        signature: Of its context and the SHA-256 of these bytes.
    """

    content: bytes
    signature: bytes


class PendingResponse:
    """Opens the answer to one question, and nothing else."""

    def __init__(self, reply: SealingKey, context: bytes) -> None:
        self._reply = reply
        self._context = context

    def open(self, answer: Sealed, teacher: VerifyingKey) -> bytes:
        """Returns the teacher's answer.

        Raises:
            NotAuthorizedError: It is not the teacher's, or of another question.
        """
        signed = self._context + hashlib.sha256(answer.content).digest()
        try:
            teacher.check(_ANSWER, signed, answer.signature)
            return self._reply.open(answer.content, self._context)
        except CertificateError as error:
            raise NotAuthorizedError(
                f"this is no answer of the teacher to this question: {error}"
            ) from None


class OpenedRequest:
    """A question that its site signed and nobody else has read.

    Args:
        content: What was enclosed: the reply key, then the message.
        reply: To whom the answer is sealed.
        context: Of the question.
        digest: SHA-256 of the sealed question.
    """

    def __init__(
        self, content: bytes, reply: SealingPublicKey, context: bytes, digest: bytes
    ) -> None:
        self.message = memoryview(content)[len(reply.raw) :]
        self.digest = digest
        self._reply = reply
        self._context = _answer_context(context, digest)

    def answer(self, message: bytes, teacher: SigningKey) -> Sealed:
        """Seals and signs the answer.

        Raises:
            MalformedRequestError: The reply key is none.
        """
        try:
            content = self._reply.seal(message, self._context)
        except CertificateError as error:
            raise MalformedRequestError(f"the reply key: {error}") from None
        signed = self._context + hashlib.sha256(content).digest()
        return Sealed(content, teacher.sign(_ANSWER, signed))


def seal_request(
    place: MessageContext,
    parties: Parties,
    message: Sequence[bytes | memoryview],
    to: SealingPublicKey,
    site: SigningKey,
) -> tuple[Sealed, PendingResponse]:
    """Seals and signs a question.

    Args:
        place: Where it belongs.
        parties: Who asks whom.
        message: Its parts; they are put together here, once.
        to: The teacher's sealing key; the answer comes in the same suite.
        site: The site's signing key.
    """
    context = place.context(parties, to.key_id)
    reply = SealingKey.create(to.suite)
    content = to.seal(b"".join((reply.public.raw, *message)), context)
    digest = hashlib.sha256(content).digest()
    signature = site.sign(_QUESTION, context + digest)
    pending = PendingResponse(reply, _answer_context(context, digest))
    return Sealed(content, signature), pending


def open_request(
    place: MessageContext,
    parties: Parties,
    question: Sealed,
    site: VerifyingKey,
    key: tuple[bytes, Callable[[bytes], SealingKey]],
) -> OpenedRequest:
    """Checks who asks, and opens the question.

    Args:
        place: Where it came.
        parties: Who asks whom, as the caller says and the approvals know.
        question: As it came.
        site: The key that was approved for the site.
        key: The id of the teacher's sealing key, and what finds it.

    Raises:
        NotAuthorizedError: The signature is not the site's for this place, or there is
            no such sealing key.
        MalformedRequestError: What the site signed does not open.
    """
    key_id, find = key
    context = place.context(parties, key_id)
    digest = hashlib.sha256(question.content).digest()
    try:
        site.check(_QUESTION, context + digest, question.signature)
    except CertificateError:
        raise NotAuthorizedError(
            f"the question is not signed with the key approved for site "
            f"{parties.site}, or not for this teacher, card, method and request id"
        ) from None
    own = find(key_id)
    suite = own.public.suite
    try:
        content = own.open(question.content, context)
        reply = SealingPublicKey(suite, content[: public_bytes(suite)])
    except CertificateError as error:
        raise MalformedRequestError(str(error)) from None
    return OpenedRequest(content, reply, context, digest)


def _answer_context(question: bytes, digest: bytes) -> bytes:
    return _framed(b"answer", question, digest)


def _framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in parts)
