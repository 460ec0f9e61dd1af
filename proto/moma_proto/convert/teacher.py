"""Between the wire and the domain; a peer's every claim is checked here.

Checks come before copies: pixels and outputs are views of the message's bytes until
all of them is known to be in order. On the teacher's side a fault is the site's
(MalformedRequestError), on the site's side the teacher's (TeacherUnavailableError).
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moma_core.errors import MalformedRequestError, TeacherUnavailableError
from moma_core.teacher.card.bounds import RequestBounds
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.signed import SignedCard
from moma_core.teacher.pixel_encoding import (
    RAW,
    PictureKind,
    PixelEncoding,
    read_pictures,
)
from moma_core.teacher.query import (
    REQUEST_ID_BYTES,
    SESSION_ID_BYTES,
    EmbedResult,
    PatchQuery,
    Pixels,
)
from moma_proto.v1 import teacher_pb2 as pb

_CHANNELS = 3

_PICTURE_HEAD_BYTES = 8  # tag and length of each on the wire

_PIXELS_TAG = bytes([pb.EmbedRequest.PIXELS_FIELD_NUMBER << 3 | 2])  # a length follows

_FLOAT32: np.dtype[np.float32] = np.dtype("<f4")

_ARRAYS: Final[Mapping[int, np.dtype[np.uint8] | np.dtype[np.float32]]] = {
    pb.PIXEL_FORMAT_RGB_UINT8: np.dtype(np.uint8),
    pb.PIXEL_FORMAT_RGB_FLOAT32: _FLOAT32,
}

_FORMATS: "Final[Mapping[PictureKind, pb.PixelFormat.ValueType]]" = {
    "png": pb.PIXEL_FORMAT_PNG,
    "webp": pb.PIXEL_FORMAT_WEBP,
    "jpeg": pb.PIXEL_FORMAT_JPEG,
}
_KINDS: Final[Mapping[int, PictureKind]] = {
    wire: kind for kind, wire in _FORMATS.items()
}


class WrittenQuery(NamedTuple):
    """A serialized EmbedRequest, in parts that follow each other.

    Args:
        parts: Parts of the message; the last one may be the pixels, where they are.
        format: Format of the pixels.
    """

    parts: tuple[bytes | memoryview, ...]
    format: pb.PixelFormat.ValueType


def query_to_parts(query: PatchQuery, encoding: PixelEncoding = RAW) -> WrittenQuery:
    """Writes a query; a plain array is not copied until it is sealed.

    A field may come in any place, so the pixels come last.
    """
    if encoding.kind != "raw":
        request = query_to_wire(query, encoding)
        return WrittenQuery((request.SerializeToString(),), request.format)
    request = _head_to_wire(query)
    request.format = _array_format(query.pixels)
    pixels = np.ascontiguousarray(query.pixels).data.cast("B")
    head = request.SerializeToString() + _PIXELS_TAG + _varint(len(pixels))
    return WrittenQuery((head, pixels), request.format)


def query_to_wire(query: PatchQuery, encoding: PixelEncoding = RAW) -> pb.EmbedRequest:
    """Writes a query, its pixels in the site's encoding."""
    request = _head_to_wire(query)
    _put_pixels(request, query.pixels, encoding)
    return request


def _head_to_wire(query: PatchQuery) -> pb.EmbedRequest:
    patches, height, width, _ = query.pixels.shape
    return pb.EmbedRequest(
        request_id=query.request_id,
        patches=patches,
        height_px=height,
        width_px=width,
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


def result_to_wire(result: EmbedResult) -> pb.EmbedResponse:
    """Writes the outputs for a query."""
    return pb.EmbedResponse(
        request_id=result.request_id,
        patches=len(result.embedding),
        embedding=result.embedding.astype(_FLOAT32, copy=False).tobytes(),
        logits=result.logits.astype(_FLOAT32, copy=False).tobytes(),
    )


def result_from_wire(
    response: pb.EmbedResponse, query: PatchQuery, card: TeacherCard
) -> EmbedResult:
    """Reads the outputs for a query; arrays are read-only, zeros where one is withheld.

    Raises:
        TeacherUnavailableError: The response is for another query, or its size or
            values are not what the card promises.
    """
    if response.request_id != query.request_id or response.patches != len(query):
        raise TeacherUnavailableError("the teacher answered another request")
    lengths = (card.embedding_length, len(card.class_names))
    embedding_shape, logits_shape = ((len(query), length) for length in lengths)
    return EmbedResult(
        query.request_id,
        _floats(
            response.embedding, embedding_shape, disclosed="embedding" in card.outputs
        ),
        _floats(response.logits, logits_shape, disclosed="logits" in card.outputs),
    )


def _floats(
    content: bytes, shape: tuple[int, int], *, disclosed: bool
) -> NDArray[np.float32]:
    expected = shape[0] * shape[1] * _FLOAT32.itemsize * disclosed
    if len(content) != expected:
        raise TeacherUnavailableError(
            f"the teacher answered {len(content)} bytes where {expected} are due"
        )
    if not disclosed:
        return np.zeros(shape, np.float32)
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


def _put_pixels(
    request: pb.EmbedRequest, pixels: Pixels, encoding: PixelEncoding
) -> None:
    """Writes the pixels of a query into its message.

    Pictures that take no fewer bytes than the array go as the array of what they show,
    so that no request outgrows the bounds. Float32 pixels always go as an array.

    Args:
        request: Has everything else.
        pixels: (N, H, W, 3).
        encoding: The site's.
    """
    kind = encoding.kind
    if pixels.dtype == np.uint8 and kind != "raw":
        pictures = encoding.pictures(pixels.astype(np.uint8, copy=False))
        size = sum(len(picture) + _PICTURE_HEAD_BYTES for picture in pictures)
        if size < pixels.nbytes:
            request.format = _FORMATS[kind]
            request.pictures.extend(pictures)
            return
        pixels = read_pictures(pictures, kind, pixels.shape[1])
    request.format = _array_format(pixels)
    request.pixels = pixels.tobytes()


def read_pixels(request: pb.EmbedRequest) -> Pixels:
    """Reads the pixels of a query whose number and side are checked already.

    Raises:
        MalformedRequestError: They break the wire contract.
    """
    kind = _KINDS.get(request.format)
    if kind is None:
        return _array(request)
    if len(request.pictures) != request.patches or request.pixels:
        raise MalformedRequestError(
            f"{request.patches} patches are as many pictures and no array, got "
            f"{len(request.pictures)} pictures"
        )
    return read_pictures(request.pictures, kind, request.height_px)


def _array(request: pb.EmbedRequest) -> Pixels:
    dtype = _ARRAYS.get(request.format)
    if dtype is None:
        raise MalformedRequestError(f"pixel format {request.format} is not served")
    if request.pictures:
        raise MalformedRequestError("a plain array comes without pictures")
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


def _array_format(pixels: Pixels) -> pb.PixelFormat.ValueType:
    if pixels.dtype == np.uint8:
        return pb.PIXEL_FORMAT_RGB_UINT8
    return pb.PIXEL_FORMAT_RGB_FLOAT32
