from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from moma_core.errors import ConfigError, MalformedRequestError, TeacherUnavailableError
from moma_core.teacher.card.bounds import RequestBounds, largest_response_bytes
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.query import EmbedResult, PatchQuery
from moma_proto.convert import teacher as convert
from moma_proto.v1 import teacher_pb2 as pb

BOUNDS = RequestBounds(input_size_px=4, max_patches=3)
CARD = TeacherCard(
    name="teacher-a",
    digest="ab" * 32,
    architecture="tf_efficientnet_lite0",
    embedding_length=5,
    organ="colon",
    task="tissue types",
    class_names=("benign", "malignant"),
    input_size_px=4,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    precision="float32",
)
PIXELS = st.one_of(
    arrays.arrays(np.uint8, st.tuples(*map(st.just, (2, 4, 4, 3)))),
    arrays.arrays(
        np.float32,
        st.tuples(*map(st.just, (2, 4, 4, 3))),
        elements=st.floats(0, 1, width=32),
    ),
)


@given(PIXELS, st.binary(min_size=16, max_size=16))
def test_a_query_survives_the_wire(pixels: Any, request_id: bytes) -> None:
    query = PatchQuery(request_id, pixels)

    wire = pb.EmbedRequest.FromString(convert.query_to_wire(query).SerializeToString())
    read = convert.query_from_wire(wire, BOUNDS)

    assert read.request_id == request_id
    assert read.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(read.pixels, pixels)
    assert read.digest() == query.digest()


@given(PIXELS, PIXELS)
def test_digests_are_equal_for_equal_pixels_only(one: Any, other: Any) -> None:
    equal = one.dtype == other.dtype and one.tobytes() == other.tobytes()

    digests = [PatchQuery(bytes(16), pixels).digest() for pixels in (one, other)]

    assert (digests[0] == digests[1]) == equal


def test_shape_is_part_of_the_digest() -> None:
    flat = np.zeros((1, 2, 8, 3), np.uint8)

    digests = {
        PatchQuery(bytes(16), flat.reshape(shape)).digest()
        for shape in ((1, 2, 8, 3), (1, 8, 2, 3), (2, 2, 4, 3))
    }

    assert len(digests) == 3


def test_the_largest_request_and_answer_fit_their_messages() -> None:
    query = PatchQuery(bytes(16), np.ones((3, 4, 4, 3), np.uint8))
    answer = EmbedResult(
        bytes(16), np.zeros((3, 5), np.float32), np.zeros((3, 2), np.float32)
    )

    request = convert.query_to_wire(query)
    response = convert.result_to_wire(answer)

    assert request.ByteSize() <= BOUNDS.max_message_bytes
    assert response.ByteSize() <= largest_response_bytes(CARD, BOUNDS)


@given(
    st.builds(
        pb.EmbedRequest,
        request_id=st.binary(max_size=20),
        patches=st.integers(0, 2**32 - 1),
        height_px=st.integers(0, 2**32 - 1),
        width_px=st.integers(0, 2**32 - 1),
        format=st.integers(-(2**31), 2**31 - 1),
        pixels=st.binary(max_size=200),
    )
)
def test_no_request_does_worse_than_being_refused(request_: pb.EmbedRequest) -> None:
    with pytest.raises(MalformedRequestError):
        convert.query_from_wire(request_, BOUNDS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01])
def test_a_pixel_out_of_range_is_refused_wherever_it_is(value: float) -> None:
    pixels = np.zeros((2, 4, 4, 3), np.float32)
    pixels[1, 2, 3, 1] = value
    request = convert.query_to_wire(PatchQuery(bytes(16), pixels))

    with pytest.raises(MalformedRequestError, match="finite and from 0 to 1"):
        convert.query_from_wire(request, BOUNDS)


@given(st.integers(1, 3000), st.integers(1, 4096), st.integers(2**26, 2**40))
def test_no_message_is_ever_larger_than_32_mib(
    side: int, patches: int, wanted: int
) -> None:
    bounds = RequestBounds.within(wanted, side_px=side, max_patches=patches)

    assert bounds.max_message_bytes <= 32 * 2**20
    assert bounds.max_patches <= patches


def test_small_patches_are_bound_by_their_number_alone() -> None:
    bounds = RequestBounds.within(2**28, side_px=64, max_patches=256)

    assert bounds == RequestBounds(input_size_px=64, max_patches=256)


def test_a_patch_that_no_message_holds_is_refused() -> None:
    with pytest.raises(ConfigError, match="hold no patch of 4096 x 4096 px"):
        RequestBounds.within(2**28, side_px=4096, max_patches=1)


def test_bounds_of_nothing_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="positive"):
        RequestBounds(input_size_px=224, max_patches=0)


def answered() -> tuple[PatchQuery, pb.EmbedResponse]:
    query = PatchQuery(b"q" * 16, np.zeros((2, 4, 4, 3), np.uint8))
    embedding = np.arange(10, dtype=np.float32).reshape(2, 5)
    logits = np.arange(4, dtype=np.float32).reshape(2, 2)
    answer = EmbedResult(query.request_id, embedding, logits)
    return query, convert.result_to_wire(answer)


def test_an_answer_survives_the_wire() -> None:
    query, response = answered()

    answer = convert.result_from_wire(response, query, CARD)

    assert answer.request_id == query.request_id
    np.testing.assert_array_equal(answer.embedding.ravel(), np.arange(10))
    np.testing.assert_array_equal(answer.logits.ravel(), np.arange(4))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("request_id", b"r" * 16),
        ("patches", 3),
        ("embedding", bytes(4 * 9)),
        ("logits", b""),
        ("logits", np.array([0, 0, 0, np.nan], "<f4").tobytes()),
    ],
)
def test_an_answer_that_does_not_fit_the_question_is_refused(
    name: str, value: Any
) -> None:
    query, response = answered()
    setattr(response, name, value)

    with pytest.raises(TeacherUnavailableError):
        convert.result_from_wire(response, query, CARD)


@given(patches=st.integers(1, 40), is_float=st.booleans())
def test_a_query_in_two_parts_is_the_same_message(
    patches: int, *, is_float: bool
) -> None:
    pixels = np.arange(patches * 8 * 8 * 3) % 256
    shaped = pixels.reshape(patches, 8, 8, 3)
    views = (shaped / 255).astype(np.float32) if is_float else shaped.astype(np.uint8)
    query = PatchQuery(bytes(range(16)), views)

    read = pb.EmbedRequest.FromString(b"".join(convert.query_to_parts(query).parts))

    assert read == convert.query_to_wire(query)


def test_what_a_teacher_withholds_is_zeros() -> None:
    query = PatchQuery(bytes(16), np.zeros((2, 8, 8, 3), np.uint8))
    full = EmbedResult(
        bytes(16), np.ones((2, 3), np.float32), np.ones((2, 2), np.float32)
    )
    bare = replace(full, embedding=np.empty((2, 0), np.float32))
    card = replace(
        CARD, embedding_length=3, class_names=("a", "b"), outputs=("logits",)
    )

    answer = convert.result_from_wire(convert.result_to_wire(bare), query, card)

    assert answer.embedding.shape == (2, 3)
    assert not answer.embedding.any()
    assert (answer.logits == 1).all()
    with pytest.raises(TeacherUnavailableError, match="24 bytes where 0"):
        convert.result_from_wire(convert.result_to_wire(full), query, card)
