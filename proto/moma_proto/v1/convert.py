"""Between the wire and the domain; a peer's every claim is checked here.

Checks come before copies: pixels and answers are views of the message's bytes until
all of them is known to be in order. On the teacher's side a fault is the site's
(MalformedRequestError), on the site's side the teacher's (TeacherUnavailableError).
"""

import numpy as np
from numpy.typing import NDArray

from moma_core.errors import MalformedRequestError, TeacherUnavailableError
from moma_core.teacher.card import TeacherCard
from moma_core.teacher.issued_card import SignedCard
from moma_core.teacher.query import (
    REQUEST_ID_BYTES,
    SESSION_ID_BYTES,
    PatchAnswer,
    PatchQuery,
    Pixels,
    RequestBounds,
)
from moma_proto.v1 import teacher_pb2 as pb

_CHANNELS = 3
_PIXELS_TAG = bytes([pb.EmbedRequest.PIXELS_FIELD_NUMBER << 3 | 2])  # a length follows

_FLOAT32: np.dtype[np.float32] = np.dtype("<f4")
_FORMATS: dict[int, np.dtype[np.uint8] | np.dtype[np.float32]] = {
    pb.PIXEL_FORMAT_RGB_UINT8: np.dtype(np.uint8),
    pb.PIXEL_FORMAT_RGB_FLOAT32: _FLOAT32,
}


def query_to_parts(query: PatchQuery) -> tuple[bytes, memoryview]:
    """Writes a query, in two parts: the second one is its pixels, where they are.

    The parts in a row are one serialized EmbedRequest; a field may come in any place,
    so the pixels come last, and are not copied until they are sealed.
    """
    pixels = np.ascontiguousarray(query.pixels).data.cast("B")
    head = _head_to_wire(query).SerializeToString()
    return head + _PIXELS_TAG + _varint(len(pixels)), pixels


def query_to_wire(query: PatchQuery) -> pb.EmbedRequest:
    """Writes a query."""
    request = _head_to_wire(query)
    request.pixels = query.pixels.tobytes()
    return request


def _head_to_wire(query: PatchQuery) -> pb.EmbedRequest:
    patches, height, width, _ = query.pixels.shape
    is_uint8 = query.pixels.dtype == np.uint8
    return pb.EmbedRequest(
        request_id=query.request_id,
        patches=patches,
        height_px=height,
        width_px=width,
        format=pb.PIXEL_FORMAT_RGB_UINT8 if is_uint8 else pb.PIXEL_FORMAT_RGB_FLOAT32,
        session_id=query.session,
    )


def _varint(value: int) -> bytes:
    """Returns a length as protobuf writes it: seven bits a byte, lowest first."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def query_from_wire(request: pb.EmbedRequest, bounds: RequestBounds) -> PatchQuery:
    """Reads a query; its pixels are a read-only view of the message's bytes.

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
    return PatchQuery(request.request_id, _pixels(request), request.session_id)


def _pixels(request: pb.EmbedRequest) -> Pixels:
    dtype = _FORMATS.get(request.format)
    if dtype is None:
        raise MalformedRequestError(f"pixel format {request.format} is not served")
    shape = (request.patches, request.height_px, request.width_px, _CHANNELS)
    content = request.pixels  # the one copy: protobuf makes it at every access
    expected = int(np.prod(shape)) * dtype.itemsize
    if len(content) != expected:
        raise MalformedRequestError(
            f"{request.patches} patches take {expected} bytes, got {len(content)}"
        )
    if dtype == np.uint8:
        return np.frombuffer(content, np.uint8).reshape(shape)
    floats = np.frombuffer(content, _FLOAT32).reshape(shape)
    if not (floats.min() >= 0 and floats.max() <= 1):  # NaN is never so
        raise MalformedRequestError("pixel values are finite and from 0 to 1")
    return floats


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
    """Reads the answer to a query; its arrays are read-only views.

    Raises:
        TeacherUnavailableError: It answers another query, or its size or values
            are not what the card promises.
    """
    if response.request_id != query.request_id or response.patches != len(query):
        raise TeacherUnavailableError("the teacher answered another request")
    return PatchAnswer(
        query.request_id,
        _floats(response.embedding, (len(query), card.embedding_length)),
        _floats(response.logits, (len(query), len(card.class_names))),
    )


def _floats(content: bytes, shape: tuple[int, int]) -> NDArray[np.float32]:
    expected = shape[0] * shape[1] * _FLOAT32.itemsize
    if len(content) != expected:
        raise TeacherUnavailableError(
            f"the teacher answered {len(content)} bytes where {expected} are due"
        )
    values = np.frombuffer(content, _FLOAT32).reshape(shape)
    if not np.isfinite(values).all():
        raise TeacherUnavailableError("the teacher answered NaN or infinity")
    return values


def signed_card_to_wire(card: SignedCard) -> pb.DescribeResponse:
    """Writes a teacher's card."""
    return pb.DescribeResponse(card_json=card.content, signature=card.signature)


def signed_card_from_wire(response: pb.DescribeResponse) -> SignedCard:
    """Reads a teacher's card, of which nothing is believed yet."""
    return SignedCard(response.card_json, response.signature)
