"""Sealed messages, between the wire and the domain, and bounds on what is in them."""

import math
from typing import cast, get_args

from google.protobuf.message import DecodeError

from moma_core.end_to_end.hpke import KEY_ID_BYTES, SUITES, added_bytes, public_bytes
from moma_core.end_to_end.sealed_messages import (
    EXCHANGE_ID_BYTES,
    MessageContext,
    Sealed,
)
from moma_core.end_to_end.signatures import SIGNATURE_BYTES
from moma_core.errors import (
    MalformedRequestError,
    RefusalReason,
    TeacherUnavailableError,
    printable_line,
)
from moma_core.teacher.refusal import Refusal
from moma_proto.v1 import sealed_pb2 as pb
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse

SENTENCE_BYTES = 300
"""Length of the sentence of each refusal, whatever it says."""

_TYPICAL_NAME = 8  # letters
_SOME_TIME_MS = 2**41
_LONGEST_RETRY_MS = 300_000
_PREFIX = "REFUSAL_REASON_"

_VARINT, _EIGHT_BYTES, _LENGTH, _BEGIN, _END, _FOUR_BYTES = range(6)
_LONGEST_VARINT = 10


def sealed_request_to_wire(
    site: str, context: MessageContext, key_id: bytes, sealed: Sealed
) -> SealedRequest:
    """Writes a sealed request."""
    return SealedRequest(
        site=site,
        request_id=context.request_id,
        key_id=key_id,
        issued_ms=context.issued_ms,
        sealed=sealed.content,
        signature=sealed.signature,
    )


def fixed_lengths(request: SealedRequest) -> tuple[tuple[str, bytes, int], ...]:
    """Returns name, value and due length of each field that has one length."""
    return (
        ("request id", request.request_id, EXCHANGE_ID_BYTES),
        ("key id", request.key_id, KEY_ID_BYTES),
        ("signature", request.signature, SIGNATURE_BYTES),
    )


def response_to_wire(sealed: Sealed) -> SealedResponse:
    """Writes a sealed response."""
    return SealedResponse(sealed=sealed.content, signature=sealed.signature)


def response_from_wire(response: SealedResponse) -> Sealed:
    """Reads a sealed response, of which nothing is believed yet."""
    return Sealed(response.sealed, response.signature)


def response_content(response: bytes) -> bytes:
    """Returns what is sealed of a method's own response."""
    return pb.SealedContent(response=response).SerializeToString()


def refusal_content(refusal: Refusal) -> bytes:
    """Returns what is sealed of a refusal; of each as many bytes."""
    sentence = refusal.sentence.encode(errors="replace")[:SENTENCE_BYTES]
    retry_ms = math.ceil(refusal.retry_after_seconds * 1000)
    written = pb.Refusal(
        reason=pb.RefusalReason.Value(_PREFIX + refusal.reason.upper()),
        sentence=sentence.decode(errors="ignore"),
        retry_after_ms=max(0, min(retry_ms, _LONGEST_RETRY_MS)),
    )
    missing = SENTENCE_BYTES - len(written.sentence.encode())
    written.sentence += " " * missing
    return pb.SealedContent(refusal=written).SerializeToString()


def content_from_sealed(content: bytes) -> bytes | Refusal:
    """Returns a method's own response, or why there is none.

    Raises:
        TeacherUnavailableError: It is neither.
    """
    try:
        found = pb.SealedContent.FromString(content)
    except DecodeError:
        raise TeacherUnavailableError("the teacher's answer is not readable") from None
    if found.WhichOneof("content") == "response":
        return found.response
    refusal = found.refusal
    reason = _reason(refusal.reason)
    if reason is None:
        raise TeacherUnavailableError("the teacher refuses and does not say why")
    retry_ms = min(refusal.retry_after_ms, _LONGEST_RETRY_MS)
    return Refusal(reason, _shown(refusal.sentence), retry_ms / 1000)


def _reason(value: pb.RefusalReason.ValueType) -> RefusalReason | None:
    """Returns what a number stands for; a later version may have more of them."""
    if value not in pb.RefusalReason.values():
        return None
    name = pb.RefusalReason.Name(value).removeprefix(_PREFIX).lower()
    return cast("RefusalReason", name) if name in get_args(RefusalReason) else None


def _shown(sentence: str) -> str:
    """Returns what a teacher wrote, fit for a log: printable and short."""
    return printable_line(sentence, SENTENCE_BYTES).strip() or "no reason given"


def sealed_sizes(request_bytes: int, response_bytes: int) -> tuple[int, int]:
    """Returns the bytes of a request and its response as they travel.

    Args:
        request_bytes: Size of the inner message of the request.
        response_bytes: Size of the inner message of the response; both are sealed in
            the suite that adds most.
    """
    suite = SUITES[-1]
    added, signature = added_bytes(suite), bytes(SIGNATURE_BYTES)
    request = SealedRequest(
        site="x" * _TYPICAL_NAME,
        request_id=bytes(EXCHANGE_ID_BYTES),
        key_id=bytes(KEY_ID_BYTES),
        issued_ms=_SOME_TIME_MS,
        sealed=bytes(request_bytes + public_bytes(suite) + added),
        signature=signature,
    )
    content = len(response_content(bytes(response_bytes)))
    response = SealedResponse(sealed=bytes(content + added), signature=signature)
    return request.ByteSize(), response.ByteSize()


def count_fields(content: memoryview, most: int) -> int:
    """Counts the fields of a message before it is parsed; those inside do not count.

    An empty picture is two bytes on the wire and sixteen times that once it is parsed:
    a bound on a message's bytes does not bound what it becomes.

    Args:
        content: Message; what else is wrong with it, its parser says.
        most: Fields that it may have, each repetition counted.

    Raises:
        MalformedRequestError: There are more, or they cannot be counted.
    """
    place, count = 0, 0
    while place < len(content):
        count += 1
        if count > most:
            raise MalformedRequestError(f"a message has at most {most} fields here")
        tag, place = _varint(content, place)
        kind = tag & 7
        if kind == _VARINT:
            _, place = _varint(content, place)
        elif kind == _LENGTH:
            size, place = _varint(content, place)
            place += size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if kind == _EIGHT_BYTES else 4
        elif kind not in (_BEGIN, _END):  # of a group: what is in it is counted
            raise MalformedRequestError("the message is not readable")
    return count


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """Returns a number, and where the next thing begins."""
    value = 0
    for position, byte in enumerate(content[place : place + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value, place + position + 1
    raise MalformedRequestError("the message is not readable")
