"""One request and its response, sealed and signed between a site and a teacher.

Whoever carries them sees their sizes and can hold them back, and nothing else:

1. A request is sealed to a key on the teacher's signed card, and holds a reply key
   that is made for this one request. Its response is sealed to that.
2. Both are signed with the parties' own keys, which each has pinned of the other.
3. What neither sends, both know: which site and teacher, by which method, under which
   id, about which card; for a response, also the sealed bytes of its request. All of it
   goes into seal and signature, so a message in any other context is refused.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from moma_core.end_to_end.hpke import SealingKey, SealingPublicKey, public_bytes
from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import CertificateError, MalformedRequestError, NotAuthorizedError

EXCHANGE_ID_BYTES = 16
SEALING_BYTES = 4096
"""What sealing adds to a message at most, generously."""

NOT_ITS_KEY: Final = "the request is not signed with the key approved for site"
"""So a site's client knows the line, which nobody signed."""

_REQUEST = "sealed question"
_RESPONSE = "sealed answer"
_NUMBER_BYTES = 8
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """A site and a teacher that exchange messages, and about which card.

    Args:
        federation: Both belong to it.
        site: Name of the site.
        teacher: Name of the teacher.
        card_digest: SHA-256 of the card and bounds (`IssuedCard.card_digest`).
    """

    federation: str
    site: str
    teacher: str
    card_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageContext:
    """Where a request belongs; one message has one context.

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

    def to_bytes(self, parties: Parties, key_id: bytes) -> bytes:
        """Returns the context in one spelling: each part with its length before it."""
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
    """Opens the response to one request, and nothing else."""

    def __init__(self, reply: SealingKey, context: bytes) -> None:
        self._reply = reply
        self._context = context

    def open(self, response: Sealed, teacher: VerifyingKey) -> bytes:
        """Returns the teacher's response.

        Raises:
            NotAuthorizedError: It is not the teacher's, or of another request.
        """
        signed = self._context + hashlib.sha256(response.content).digest()
        try:
            teacher.check(_RESPONSE, signed, response.signature)
            return self._reply.open(response.content, self._context)
        except CertificateError as error:
            raise NotAuthorizedError(
                f"this is no response of the teacher to this request: {error}"
            ) from None


class OpenedRequest:
    """A request that its site signed and nobody else has read.

    Args:
        content: What was enclosed: the reply key, then the message.
        reply: Key to which the response is sealed.
        context: Context of the request.
        digest: SHA-256 of the sealed request.
    """

    def __init__(
        self, content: bytes, reply: SealingPublicKey, context: bytes, digest: bytes
    ) -> None:
        self._message = memoryview(content)[len(reply.raw) :]
        self.digest = digest
        self._reply = reply
        self._context = _response_context(context, digest)

    def take_message(self) -> memoryview:
        """Returns the message; once, so that no pixels are kept for a response."""
        message, self._message = self._message, memoryview(b"")
        return message

    def respond(self, message: bytes, teacher: SigningKey) -> Sealed:
        """Seals and signs the response.

        Raises:
            MalformedRequestError: The reply key is none.
        """
        try:
            content = self._reply.seal(message, self._context)
        except CertificateError as error:
            raise MalformedRequestError(f"the reply key: {error}") from None
        signed = self._context + hashlib.sha256(content).digest()
        return Sealed(content, teacher.sign(_RESPONSE, signed))


def seal_request(
    context: MessageContext,
    parties: Parties,
    message: Sequence[bytes | memoryview],
    to: SealingPublicKey,
    site: SigningKey,
) -> tuple[Sealed, PendingResponse]:
    """Seals and signs a request.

    Args:
        context: Where the request belongs.
        parties: The site, the teacher and its card.
        message: Its parts; they are put together here, once.
        to: The teacher's sealing key; the response comes in the same suite.
        site: The site's signing key.
    """
    bound = context.to_bytes(parties, to.key_id)
    reply = SealingKey.create(to.suite)
    content = to.seal(b"".join((reply.public.raw, *message)), bound)
    digest = hashlib.sha256(content).digest()
    signature = site.sign(_REQUEST, bound + digest)
    pending = PendingResponse(reply, _response_context(bound, digest))
    return Sealed(content, signature), pending


def check_sender(
    context: MessageContext,
    parties: Parties,
    request: Sealed,
    site: VerifyingKey,
    key_id: bytes,
) -> bytes:
    """Checks who sent a request, and returns the SHA-256 of what is sealed.

    Args:
        context: Where the request came.
        parties: The site as the caller names it, the teacher and its card.
        request: As it came.
        site: The key that was pinned for the site.
        key_id: The id of the teacher's sealing key.

    Raises:
        NotAuthorizedError: The signature is not the site's for this place.
    """
    digest = hashlib.sha256(request.content).digest()
    try:
        signed = context.to_bytes(parties, key_id) + digest
        site.check(_REQUEST, signed, request.signature)
    except CertificateError:
        raise NotAuthorizedError(
            f"{NOT_ITS_KEY} {parties.site}, or not for this teacher, card, method and "
            f"request id"
        ) from None
    return digest


def open_request(
    context: MessageContext,
    parties: Parties,
    request: Sealed,
    site: VerifyingKey,
    key: tuple[bytes, Callable[[bytes], SealingKey]],
) -> OpenedRequest:
    """Checks who sent a request, and opens it.

    Args:
        context: Where the request came.
        parties: The site as the caller names it, the teacher and its card.
        request: As it came.
        site: The key that was pinned for the site.
        key: The id of the teacher's sealing key, and what finds it.

    Raises:
        NotAuthorizedError: The signature is not the site's for this place, or there is
            no such sealing key.
        MalformedRequestError: What the site signed does not open.
    """
    key_id, find = key
    bound = context.to_bytes(parties, key_id)
    digest = check_sender(context, parties, request, site, key_id)
    own = find(key_id)
    suite = own.public.suite
    try:
        content = own.open(request.content, bound)
        reply = SealingPublicKey(suite, content[: public_bytes(suite)])
    except CertificateError as error:
        raise MalformedRequestError(str(error)) from None
    return OpenedRequest(content, reply, bound, digest)


def _response_context(request: bytes, digest: bytes) -> bytes:
    return _framed(b"answer", request, digest)


def _framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in parts)
