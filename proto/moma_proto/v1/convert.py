"""Between the wire and the domain; a peer's every claim is checked here.

Checks come before copies: pixels and answers are views of the message's bytes until
all of them is known to be in order. On the teacher's side a fault is the site's
(MalformedRequestError), on the site's side the teacher's (TeacherUnavailableError).
"""

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from moma_core.errors import MalformedRequestError, TeacherUnavailableError
from moma_core.teacher.card import TeacherCard
from moma_core.teacher.pixel_encoding import RAW, PixelEncoding
from moma_core.teacher.query import (
    REQUEST_ID_BYTES,
    SESSION_ID_BYTES,
    Description,
    PatchAnswer,
    PatchQuery,
    RequestBounds,
)
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.convert_pixels import put_pixels, read_pixels

LONGEST_EMBEDDING = 65_536
MOST_CLASSES = 10_000
LARGEST_INPUT_PX = 4_096
LONGEST_TEXT = 200
_CHANNELS = 3
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")

_FLOAT32: np.dtype[np.float32] = np.dtype("<f4")


def query_to_wire(query: PatchQuery, encoding: PixelEncoding = RAW) -> pb.EmbedRequest:
    """Writes a query, its pixels in the site's encoding; see `put_pixels`."""
    patches, height, width, _ = query.pixels.shape
    request = pb.EmbedRequest(
        request_id=query.request_id,
        patches=patches,
        height_px=height,
        width_px=width,
        session_id=query.session,
    )
    put_pixels(request, query.pixels, encoding)
    return request


def query_from_wire(request: pb.EmbedRequest, bounds: RequestBounds) -> PatchQuery:
    """Reads a query; a plain array is a read-only view of the message's bytes.

    Raises:
        MalformedRequestError: The request breaks a bound of the wire contract.
    """
    if len(request.request_id) != REQUEST_ID_BYTES:
        found = len(request.request_id)
        raise MalformedRequestError(
            f"a request id has {REQUEST_ID_BYTES} bytes, got {found}"
        )
    if not 1 <= request.patches <= bounds.max_patches:
        raise MalformedRequestError(
            f"a request holds 1 to {bounds.max_patches} patches, got {request.patches}"
        )
    side = bounds.input_size_px
    if (request.height_px, request.width_px) != (side, side):
        raise MalformedRequestError(
            f"patches are {side} x {side} px, got "
            f"{request.height_px} x {request.width_px}"
        )
    if len(request.session_id) not in (0, SESSION_ID_BYTES):
        found = len(request.session_id)
        raise MalformedRequestError(
            f"a session id has {SESSION_ID_BYTES} bytes, got {found}"
        )
    return PatchQuery(request.request_id, read_pixels(request), request.session_id)


def answer_to_wire(answer: PatchAnswer) -> pb.EmbedResponse:
    """Writes an answer."""
    return pb.EmbedResponse(
        request_id=answer.request_id,
        patches=len(answer.embedding),
        embedding=answer.embedding.astype(_FLOAT32, copy=False).tobytes(),
        logits=answer.logits.astype(_FLOAT32, copy=False).tobytes(),
    )


def answer_from_wire(
    response: pb.EmbedResponse, query: PatchQuery, card: TeacherCard
) -> PatchAnswer:
    """Reads the answer to a query; arrays are read-only, zeros where one is withheld.

    Raises:
        TeacherUnavailableError: It answers another query, or its size or values
            are not what the card promises.
    """
    if response.request_id != query.request_id or response.patches != len(query):
        raise TeacherUnavailableError("the teacher answered another request")
    told = card.outputs
    lengths = (card.embedding_length, len(card.class_names))
    embedding_shape, logits_shape = ((len(query), length) for length in lengths)
    return PatchAnswer(
        query.request_id,
        _floats(response.embedding, embedding_shape, is_told="embedding" in told),
        _floats(response.logits, logits_shape, is_told="logits" in told),
    )


def _floats(
    content: bytes, shape: tuple[int, int], *, is_told: bool
) -> NDArray[np.float32]:
    expected = shape[0] * shape[1] * _FLOAT32.itemsize * is_told
    if len(content) != expected:
        raise TeacherUnavailableError(
            f"the teacher answered {len(content)} bytes where {expected} are due"
        )
    if not is_told:
        return np.zeros(shape, np.float32)
    values = np.frombuffer(content, _FLOAT32).reshape(shape)
    if not np.isfinite(values).all():
        raise TeacherUnavailableError("the teacher answered NaN or infinity")
    return values


def description_to_wire(
    card: TeacherCard, bounds: RequestBounds
) -> pb.DescribeResponse:
    """Writes a teacher's card and the bounds of a request."""
    return pb.DescribeResponse(
        card=card_to_wire(card),
        max_patches_per_request=bounds.max_patches,
        max_message_bytes=bounds.max_message_bytes,
    )


def description_from_wire(response: pb.DescribeResponse) -> Description:
    """Reads a teacher's card and the bounds of a request.

    Raises:
        TeacherUnavailableError: The description cannot be true.
    """
    card = card_from_wire(response.card)
    patches = response.max_patches_per_request
    smallest = patches * card.input_size_px**2 * _CHANNELS
    if patches < 1 or response.max_message_bytes <= smallest:
        raise TeacherUnavailableError(
            f"the teacher takes {patches} patches in {response.max_message_bytes} bytes"
        )
    return Description(card, RequestBounds(card.input_size_px, patches))


def card_to_wire(card: TeacherCard) -> pb.TeacherCard:
    """Writes a teacher's card."""
    return pb.TeacherCard(
        name=card.name,
        digest=card.digest,
        architecture=card.architecture,
        embedding_length=card.embedding_length,
        organ=card.organ,
        task=card.task,
        class_names=card.class_names,
        input_size_px=card.input_size_px,
        mean=card.mean,
        std=card.std,
        precision=card.precision,
        momentum_sessions=card.momentum_sessions,
        membership_advantage=card.membership_advantage,
    )


def card_from_wire(card: pb.TeacherCard) -> TeacherCard:
    """Reads a teacher's card.

    Raises:
        TeacherUnavailableError: A field is missing or out of range.
    """
    _check_sizes(card)
    _check_texts(card)
    if not all(np.isfinite(card.mean)) or not all(0 < std < 1e6 for std in card.std):
        raise TeacherUnavailableError("the card's mean or std is out of range")
    return TeacherCard(
        name=card.name,
        digest=card.digest,
        architecture=card.architecture,
        embedding_length=card.embedding_length,
        organ=card.organ,
        task=card.task,
        class_names=tuple(card.class_names),
        input_size_px=card.input_size_px,
        mean=_triple(card.mean),
        std=_triple(card.std),
        precision=card.precision,
        momentum_sessions=card.momentum_sessions,
        membership_advantage=_membership_advantage(card),
    )


def _membership_advantage(card: pb.TeacherCard) -> float | None:
    if not card.HasField("membership_advantage"):
        return None
    if not -1 <= card.membership_advantage <= 1:  # NaN is never so
        raise TeacherUnavailableError(
            "the card's membership_advantage is from -1 to 1, got "
            f"{card.membership_advantage}"
        )
    return card.membership_advantage


def _check_sizes(card: pb.TeacherCard) -> None:
    for name, value, largest in (
        ("embedding_length", card.embedding_length, LONGEST_EMBEDDING),
        ("class_names", len(card.class_names), MOST_CLASSES),
        ("input_size_px", card.input_size_px, LARGEST_INPUT_PX),
    ):
        if not 1 <= value <= largest:
            raise TeacherUnavailableError(
                f"the card's {name} is 1 to {largest}, got {value}"
            )
    if len(card.mean) != _CHANNELS or len(card.std) != _CHANNELS:
        raise TeacherUnavailableError("the card's mean and std have three values")


def _check_texts(card: pb.TeacherCard) -> None:
    if not _SHA256_HEX.fullmatch(card.digest):
        raise TeacherUnavailableError("the card's digest is no SHA-256 in hex")
    if len(set(card.class_names)) != len(card.class_names):
        raise TeacherUnavailableError("the card names a class twice")
    labels = (card.name, card.architecture, card.organ, card.task, card.precision)
    if not all(
        0 < len(text) <= LONGEST_TEXT and text.isprintable()
        for text in (*labels, *card.class_names)
    ):
        raise TeacherUnavailableError("the card has an empty or overlong text")


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    # the shortest decimal of a float32 is what the teacher's own card says
    red, green, blue = (float(str(np.float32(value))) for value in values)
    return red, green, blue
