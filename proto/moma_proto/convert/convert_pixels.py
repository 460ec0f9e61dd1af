"""The pixels of a query on the wire: one plain array, or one picture a patch.

Checks come before copies: a plain array is a view of the message's bytes, and the size
of a picture is known before it is decoded. What is asked, and charged, is what the
teacher reads here.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

from moma_core.errors import MalformedRequestError
from moma_core.teacher.pixel_encoding import PictureKind, PixelEncoding, read_pictures
from moma_core.teacher.query import Pixels
from moma_proto.v1 import teacher_pb2 as pb

_CHANNELS = 3
_PICTURE_HEAD_BYTES = 8  # tag and length of each on the wire

_FLOAT32: np.dtype[np.float32] = np.dtype("<f4")
_ARRAYS: Final[Mapping[int, np.dtype[np.uint8] | np.dtype[np.float32]]] = {
    pb.PIXEL_FORMAT_RGB_UINT8: np.dtype(np.uint8),
    pb.PIXEL_FORMAT_RGB_FLOAT32: _FLOAT32,
}
_KINDS: Final[Mapping[int, PictureKind]] = {
    pb.PIXEL_FORMAT_PNG: "png",
    pb.PIXEL_FORMAT_WEBP: "webp",
    pb.PIXEL_FORMAT_JPEG: "jpeg",
}


def put_pixels(
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
            request.format = _format_of(kind)
            request.pictures.extend(pictures)
            return
        pixels = read_pictures(pictures, kind, pixels.shape[1])
    is_uint8 = pixels.dtype == np.uint8
    request.format = (
        pb.PIXEL_FORMAT_RGB_UINT8 if is_uint8 else pb.PIXEL_FORMAT_RGB_FLOAT32
    )
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


def _format_of(kind: PictureKind) -> pb.PixelFormat.ValueType:
    if kind == "png":
        return pb.PIXEL_FORMAT_PNG
    return pb.PIXEL_FORMAT_WEBP if kind == "webp" else pb.PIXEL_FORMAT_JPEG
