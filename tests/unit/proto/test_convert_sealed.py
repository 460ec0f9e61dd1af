"""What is sealed of an answer, and of a refusal, which all look alike outside."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core.errors import (
    CATALOGUE,
    MomaError,
    RefusalReason,
    TeacherBusyError,
    TeacherUnavailableError,
)
from moma_core.teacher.refusal import Refusal
from moma_proto.convert.sealed import (
    content_from_sealed,
    refusal_content,
    response_content,
)
from moma_proto.v1 import sealed_pb2 as pb

SEALED = set(get_args(RefusalReason)) - {"internal"}
LENGTH = len(refusal_content(Refusal("busy", "", 1.0)))


@given(st.sampled_from(get_args(RefusalReason)), st.text(), st.floats(0, 1e9))
def test_every_refusal_has_one_length_and_a_sentence_to_show(
    reason: RefusalReason, sentence: str, seconds: float
) -> None:
    content = refusal_content(Refusal(reason, sentence, seconds))

    told = content_from_sealed(content)

    assert len(content) == LENGTH
    assert isinstance(told, Refusal)
    assert told.reason == reason
    assert told.sentence.isprintable()
    assert 0 < len(told.sentence) <= 300
    assert 0 <= told.retry_after_seconds <= 300


@given(st.binary())
def test_a_response_comes_as_it_was(response: bytes) -> None:
    assert content_from_sealed(response_content(response)) == response


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        pb.SealedContent(refusal=pb.Refusal(sentence="no")).SerializeToString(),
        b"\x12\x02\x08\x63",  # a reason that a later version may have
    ],
)
def test_what_is_neither_is_not_used(content: bytes) -> None:
    with pytest.raises(TeacherUnavailableError):
        content_from_sealed(content)


@pytest.mark.parametrize(
    "kind", [k for k, meaning in CATALOGUE.items() if meaning.refusal != "internal"]
)
def test_an_error_of_the_catalogue_comes_out_of_a_refusal_as_it_went_in(
    kind: type[MomaError],
) -> None:
    error = kind("no", 1.0) if kind is TeacherBusyError else kind("no")

    assert Refusal.of(error).reason != "internal"
    assert type(Refusal.of(error).error()) is kind
