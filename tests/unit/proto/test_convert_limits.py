"""How many fields a message has is known before it is parsed."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from moma_core.errors import MalformedRequestError
from moma_proto.convert.sealed import count_fields
from moma_proto.v1 import teacher_pb2 as pb

EMPTY_PICTURE = b"\x42\x00"


def test_many_empty_pictures_are_refused_before_they_are_parsed() -> None:
    content = memoryview(EMPTY_PICTURE * 1_000_000)

    with pytest.raises(MalformedRequestError, match="at most 100 fields"):
        count_fields(content, 100)


@given(
    st.builds(
        pb.EmbedRequest,
        request_id=st.binary(max_size=20),
        patches=st.integers(0, 2**32 - 1),
        pixels=st.binary(max_size=300),
        pictures=st.lists(st.binary(max_size=200), max_size=20),
    )
)
def test_a_message_has_as_many_fields_as_it_was_given(
    request_: pb.EmbedRequest,
) -> None:
    content = memoryview(request_.SerializeToString())
    fields = len(request_.ListFields()) + max(0, len(request_.pictures) - 1)

    assert count_fields(content, fields) == fields
    if fields:
        with pytest.raises(MalformedRequestError):
            count_fields(content, fields - 1)


@given(st.binary(max_size=200))
def test_what_is_parsed_was_counted(content: bytes) -> None:
    try:
        pb.EmbedRequest.FromString(content)
    except DecodeError:
        return

    assert count_fields(memoryview(content), len(content)) <= len(content)


@pytest.mark.parametrize("content", [b"\x0f", b"\xff" * 11, b"\x08", b"\x08\xff"])
def test_what_cannot_be_told_apart_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedRequestError, match="not readable"):
        count_fields(memoryview(content), 100)
