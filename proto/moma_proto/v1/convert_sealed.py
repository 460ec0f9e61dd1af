"""Sealed messages, between the wire and the domain; as `convert` does for queries."""

from moma_core.trust.sealed_exchange import EXCHANGE_ID_BYTES, Place, Sealed
from moma_core.trust.sealing import KEY_ID_BYTES, SUITES, added_bytes, public_bytes
from moma_core.trust.signing import SIGNATURE_BYTES
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse

_TYPICAL_NAME = 8  # letters
_SOME_TIME_MS = 2**41


def question_to_wire(
    site: str, place: Place, key_id: bytes, question: Sealed
) -> SealedRequest:
    """Writes a sealed question."""
    return SealedRequest(
        site=site,
        request_id=place.request_id,
        key_id=key_id,
        issued_ms=place.issued_ms,
        sealed=question.content,
        signature=question.signature,
    )


def fixed_lengths(request: SealedRequest) -> tuple[tuple[str, bytes, int], ...]:
    """Returns name, value and due length of each field that has one length."""
    return (
        ("request id", request.request_id, EXCHANGE_ID_BYTES),
        ("key id", request.key_id, KEY_ID_BYTES),
        ("signature", request.signature, SIGNATURE_BYTES),
    )


def answer_to_wire(answer: Sealed) -> SealedResponse:
    """Writes a sealed answer."""
    return SealedResponse(sealed=answer.content, signature=answer.signature)


def answer_from_wire(response: SealedResponse) -> Sealed:
    """Reads a sealed answer, of which nothing is believed yet."""
    return Sealed(response.sealed, response.signature)


def sealed_sizes(question_bytes: int, answer_bytes: int) -> tuple[int, int]:
    """Returns how long a question and its answer are as they travel.

    Args:
        question_bytes: Of the inner message.
        answer_bytes: Likewise; both in the suite that adds most.
    """
    suite = SUITES[-1]
    added, signature = added_bytes(suite), bytes(SIGNATURE_BYTES)
    question = SealedRequest(
        site="x" * _TYPICAL_NAME,
        request_id=bytes(EXCHANGE_ID_BYTES),
        key_id=bytes(KEY_ID_BYTES),
        issued_ms=_SOME_TIME_MS,
        sealed=bytes(question_bytes + public_bytes(suite) + added),
        signature=signature,
    )
    answer = SealedResponse(sealed=bytes(answer_bytes + added), signature=signature)
    return question.ByteSize(), answer.ByteSize()
