"""Pixels of a query as arrays and as pictures."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from moma_core.errors import MalformedRequestError
from moma_core.teacher.card.bounds import RequestBounds
from moma_core.teacher.pixel_encoding import PixelEncoding
from moma_core.teacher.query import PatchQuery
from moma_proto.convert import teacher as convert
from moma_proto.v1 import teacher_pb2 as pb

SIDE = 32
BOUNDS = RequestBounds(input_size_px=SIDE, max_patches=4)
FORMATS = {
    "png": pb.PIXEL_FORMAT_PNG,
    "webp": pb.PIXEL_FORMAT_WEBP,
    "jpeg:90": pb.PIXEL_FORMAT_JPEG,
}


def _smooth(count: int = 3) -> NDArray[np.uint8]:
    """Patches of which no two are alike, and which compress."""
    line = np.linspace(0, 200, SIDE, dtype=np.uint8)
    patches = [np.add.outer(line // 2, line // 4) + place for place in range(count)]
    return np.repeat(np.stack(patches)[..., None], 3, axis=3).astype(np.uint8)


def _noise(count: int = 3) -> NDArray[np.uint8]:
    draws = np.random.default_rng(1)
    return draws.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def _wire(pixels: Any, encoding: str) -> pb.EmbedRequest:
    query = PatchQuery(bytes(16), pixels)
    request = convert.query_to_wire(query, PixelEncoding.parse(encoding))
    return pb.EmbedRequest.FromString(request.SerializeToString())


@pytest.mark.parametrize("encoding", FORMATS)
def test_pictures_survive_the_wire_and_take_fewer_bytes(encoding: str) -> None:
    pixels = _smooth()

    wire = _wire(pixels, encoding)
    read = convert.query_from_wire(wire, BOUNDS)

    assert wire.format == FORMATS[encoding]
    assert wire.ByteSize() < pixels.nbytes
    np.testing.assert_allclose(
        read.pixels.astype(int), pixels, atol=8 if "jpeg" in encoding else 0
    )


@pytest.mark.parametrize("encoding", ["png", "webp"])
def test_a_lossless_query_has_the_identity_of_its_pixels(encoding: str) -> None:
    pixels = _smooth()

    read = convert.query_from_wire(_wire(pixels, encoding), BOUNDS)

    assert read.digest() == PatchQuery(bytes(16), pixels).digest()


def test_a_lossy_query_has_the_identity_of_what_the_teacher_sees() -> None:
    read = [
        convert.query_from_wire(_wire(_smooth(), f"jpeg:{quality}"), BOUNDS)
        for quality in (90, 90, 50)
    ]

    assert read[0].digest() == read[1].digest() != read[2].digest()


@pytest.mark.parametrize("encoding", ["png", "webp", "jpeg:100"])
def test_pictures_that_save_nothing_go_as_the_array_of_what_they_show(
    encoding: str,
) -> None:
    tiny = _noise()[:, :4, :4]
    bounds = RequestBounds(input_size_px=4, max_patches=4)

    wire = _wire(tiny, encoding)

    assert wire.format == pb.PIXEL_FORMAT_RGB_UINT8
    assert wire.ByteSize() <= bounds.max_message_bytes
    shown = convert.query_from_wire(wire, bounds).pixels
    assert (shown == tiny).all() == (encoding != "jpeg:100")


@given(st.sampled_from(["png", "webp", "jpeg:100"]))
def test_no_encoding_makes_a_request_larger_than_the_array(encoding: str) -> None:
    assert _wire(_noise(), encoding).ByteSize() <= _wire(_noise(), "raw").ByteSize()


def test_float_pixels_are_never_pictures() -> None:
    pixels = (_smooth() / 255).astype(np.float32)

    wire = _wire(pixels, "png")

    assert wire.format == pb.PIXEL_FORMAT_RGB_FLOAT32


def _changed(encoding: str, **fields: Any) -> pb.EmbedRequest:
    wire = _wire(_smooth(), encoding)
    for name, value in fields.items():
        wire.ClearField(name)
        if isinstance(value, list):
            getattr(wire, name).extend(value)
        else:
            setattr(wire, name, value)
    return wire


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (_changed("png", pictures=[]), "got 0 pictures"),
        (_changed("png", pixels=b"x"), "no array"),
        (_changed("raw", pictures=[b"x"]), "without pictures"),
        (_changed("png", format=pb.PIXEL_FORMAT_JPEG), "a JPEG picture is damaged"),
        (_changed("png", format=pb.PIXEL_FORMAT_UNSPECIFIED), "is not served"),
        (_changed("png", patches=4), "4 patches are as many pictures"),
    ],
)
def test_pictures_that_are_not_as_declared_are_refused(
    request_: pb.EmbedRequest, sentence: str
) -> None:
    with pytest.raises(MalformedRequestError, match=sentence):
        convert.query_from_wire(request_, BOUNDS)
