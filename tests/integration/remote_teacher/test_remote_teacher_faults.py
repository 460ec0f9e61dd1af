"""The client's teacher link against teachers that are not what they should be."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from moma_client.teacher.retry import RetryLimits
from moma_core.errors import (
    BudgetSpentError,
    CoverageError,
    MalformedRequestError,
    MomaError,
    NotAuthorizedError,
    PolicyError,
    ReplayError,
    SessionLostError,
    StoppedError,
    TeacherBusyError,
    TeacherError,
    TeacherUnavailableError,
)
from moma_proto.v1 import teacher_pb2 as pb
from tests.support.federation.pki import Pki
from tests.support.site.remote_teacher import (
    ScriptedTeacher,
    Site,
    batches,
    follow_all,
    honest,
    scripted,
    true_answer,
)
from tests.support.teacher.teacher_server import CARD

Code = grpc.StatusCode
Requests = Iterator[pb.EmbedRequest]
TWICE = RetryLimits(failures=2, first_pause_seconds=0.01)


def changed(**fields: Any) -> Callable[[Requests, Any], Iterator[pb.EmbedResponse]]:
    """Answers truly, but for some fields."""

    def embed(requests: Requests, context: Any) -> Iterator[pb.EmbedResponse]:
        for request in requests:
            answer = true_answer(request)
            answer.MergeFrom(pb.EmbedResponse(**fields))
            yield answer

    return embed


@pytest.mark.parametrize(
    "fields",
    [
        {"request_id": bytes(16)},
        {"patches": 3},
        {"embedding": bytes(4)},
        {"embedding": b"\x00\x00\xc0\x7f" * 6},
        {"logits": b"\x00\x00\x80\x7f" * 4},
        {"logits": bytes(4000)},
    ],
    ids=["other id", "other number", "short", "NaN", "infinite", "long"],
)
def test_an_answer_that_does_not_fit_is_not_used(
    tmp_path: Path, pki: Pki, fields: dict[str, Any]
) -> None:
    teacher = ScriptedTeacher(changed(**fields))
    with scripted(pki, teacher) as port:
        site = Site(tmp_path, pki, port)

        with pytest.raises(TeacherUnavailableError, match="the teacher answered"):
            follow_all(site)

    assert teacher.streams == 1  # nonsense is not asked for twice


@pytest.mark.parametrize(
    "kind",
    [
        BudgetSpentError,
        CoverageError,
        MalformedRequestError,
        PolicyError,
        ReplayError,
        SessionLostError,
    ],
)
def test_a_refusal_is_told_by_its_kind_in_its_turn_and_not_repeated(
    tmp_path: Path, pki: Pki, kind: type[TeacherError]
) -> None:
    def refuse(
        requests: Requests, context: Any
    ) -> Iterator[pb.EmbedResponse | MomaError]:
        yield true_answer(next(requests))
        next(requests)
        yield kind("no more\nfor you")
        yield from honest(requests, context)

    teacher = ScriptedTeacher(refuse)
    steps = []
    with scripted(pki, teacher) as port:
        site = Site(tmp_path, pki, port)
        with site.teacher() as remote:
            answering = remote.answer_batches(batches([2] * 5))
            steps.append(next(answering)[0].step)
            with pytest.raises(TeacherError, match="says: no more for you") as failure:
                next(answering)

    assert steps == [0]
    assert type(failure.value) is kind
    assert teacher.streams == 1


def test_what_a_teacher_puts_off_is_asked_again_and_the_rest_is_not(
    tmp_path: Path, pki: Pki
) -> None:
    asked: list[bytes] = []

    def busy_once(
        requests: Requests, context: Any
    ) -> Iterator[pb.EmbedResponse | MomaError]:
        for request in requests:
            asked.append(request.request_id)
            if len(asked) == 2:
                yield TeacherBusyError("queues are full", 0.2)
            else:
                yield true_answer(request)

    teacher = ScriptedTeacher(busy_once)
    with scripted(pki, teacher) as port:
        steps = follow_all(Site(tmp_path, pki, port), retries=TWICE)

    assert steps == [0, 1, 2, 3, 4]
    assert teacher.streams == 1
    assert len(asked) == 6
    assert asked.count(asked[1]) == 2


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED])
def test_a_stream_that_breaks_after_every_answer_is_taken_up_again(
    tmp_path: Path, pki: Pki, code: Code
) -> None:
    def answer_one(requests: Requests, context: Any) -> Iterator[pb.EmbedResponse]:
        yield true_answer(next(requests))
        context.abort(code, "try again")

    teacher = ScriptedTeacher(answer_one)
    with scripted(pki, teacher) as port:
        steps = follow_all(Site(tmp_path, pki, port), retries=TWICE)

    assert steps == [0, 1, 2, 3, 4]
    assert teacher.streams == 5


def test_a_busy_teacher_is_asked_again_when_it_says(tmp_path: Path, pki: Pki) -> None:
    def busy_once(requests: Requests, context: Any) -> Iterator[pb.EmbedResponse]:
        if teacher.streams == 1:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "400"),))
            context.abort(Code.RESOURCE_EXHAUSTED, "queues are full")
        yield from honest(requests, context)

    teacher = ScriptedTeacher(busy_once)
    with scripted(pki, teacher) as port:
        since = time.monotonic()
        steps = follow_all(Site(tmp_path, pki, port), retries=TWICE)

    assert steps == [0, 1, 2, 3, 4]
    assert time.monotonic() - since > 0.4


def test_a_teacher_that_keeps_ending_the_stream_is_given_up(
    tmp_path: Path, pki: Pki
) -> None:
    teacher = ScriptedTeacher(lambda requests, context: iter(()))
    with scripted(pki, teacher) as port:
        site = Site(tmp_path, pki, port)

        with pytest.raises(
            TeacherUnavailableError, match=r"gave up after 3 failures in a row: .*early"
        ):
            follow_all(site, retries=TWICE)

    assert teacher.streams == 3


def test_answers_that_nobody_asked_for_are_not_read(tmp_path: Path, pki: Pki) -> None:
    sent = 0

    def flood(requests: Requests, context: Any) -> Iterator[pb.EmbedResponse]:
        nonlocal sent
        first = true_answer(next(requests))
        yield first
        while context.is_active():
            sent += 1
            yield pb.EmbedResponse(embedding=bytes(1 << 20))

    with scripted(pki, ScriptedTeacher(flood)) as port:
        site = Site(tmp_path, pki, port)
        with site.teacher(in_flight=1) as teacher:
            answering = teacher.answer_batches(batches([2] * 2))
            next(answering)
            time.sleep(0.5)

            # which of the two depends on whether the next question is on its way yet
            refused = (NotAuthorizedError, TeacherUnavailableError)
            reason = r"no response .* this|before any request"
            with pytest.raises(refused, match=reason):
                next(answering)

    assert sent < 50  # flow control holds the rest back


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "teacher-b"}, "the card is of teacher teacher-b"),
        ({"digest": "Z" * 64}, "digest"),
        ({"class_names": ("benign", "benign")}, "twice"),
        ({"embedding_length": 0}, "embedding_length"),
        ({"input_size_px": 2048}, "2048 px"),
        ({"std": (0.0, 0.2, 0.2)}, "std"),
    ],
)
def test_a_card_that_cannot_be_true_is_refused(
    tmp_path: Path, pki: Pki, fields: dict[str, Any], reason: str
) -> None:
    with scripted(pki, ScriptedTeacher(honest, replace(CARD, **fields))) as port:
        site = Site(tmp_path, pki, port)
        with site.teacher() as teacher, pytest.raises(TeacherError, match=reason):
            teacher.describe()


def test_a_teacher_that_is_not_there_is_given_up_with_a_sentence(
    tmp_path: Path, pki: Pki
) -> None:
    site = Site(tmp_path, pki, 1)

    with pytest.raises(
        TeacherUnavailableError, match=r"gave up after 3 .* cannot reach localhost:1:"
    ):
        follow_all(site, retries=TWICE)


def test_the_stop_ends_the_wait_for_a_teacher_that_is_not_there(
    tmp_path: Path, pki: Pki
) -> None:
    site = Site(tmp_path, pki, 1)
    site.stop.set()

    with pytest.raises(StoppedError):
        follow_all(site)
