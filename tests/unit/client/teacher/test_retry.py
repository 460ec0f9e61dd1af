import threading
import time
from queue import SimpleQueue
from random import Random
from typing import get_args

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_client.teacher.retry import (
    ConnectionLostError,
    Retries,
    RetryLimits,
    StoppableWait,
    error_of,
    failure_of,
)
from moma_core.end_to_end.pinned_sites import NOT_APPROVED
from moma_core.end_to_end.sealed_messages import NOT_ITS_KEY
from moma_core.errors import (
    BudgetSpentError,
    RefusalReason,
    StoppedError,
    TeacherBusyError,
    TeacherError,
    TeacherUnavailableError,
    UnsignedRefusalError,
)
from moma_core.teacher.refusal import Refusal
from moma_proto.convert.sealed import content_from_sealed, refusal_content
from tests.support.machine.waiting import promised


class Ended(grpc.RpcError, grpc.Call):
    """How a call ended, as gRPC tells it."""

    def __init__(
        self, code: grpc.StatusCode, details: str = "", pushback: str | None = None
    ) -> None:
        self._code = code
        self._details = details
        self._pushback = pushback

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        if self._pushback is None:
            return ()
        return (("grpc-retry-pushback-ms", self._pushback),)

    def initial_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return ()

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return 0.0

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: object) -> bool:
        return False


class RecordedPatience(StoppableWait):
    """Notes the pauses instead of waiting for them."""

    def __init__(self) -> None:
        super().__init__(threading.Event())
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


class FailingAttempt:
    def __init__(self, *failures: TeacherError) -> None:
        self.left = list(failures)

    def __call__(self) -> str:
        if self.left:
            raise self.left.pop(0)
        return "answer"


def retries(
    wait: StoppableWait, limits: RetryLimits, lost: list[str] | None = None
) -> Retries:
    lost = [] if lost is None else lost
    random = Random(0)
    return Retries(limits, wait, random, on_lost=lambda: lost.append("lost"))


def test_pauses_double_up_to_the_longest_and_are_shortened_by_chance() -> None:
    wait = RecordedPatience()
    limits = RetryLimits(failures=6, first_pause_seconds=1, longest_pause_seconds=8)
    failures = [ConnectionLostError("gone")] * 6

    answer = retries(wait, limits).retry(FailingAttempt(*failures))

    assert answer == "answer"
    for pause, whole in zip(wait.pauses, [1, 2, 4, 8, 8, 8], strict=True):
        assert whole / 2 <= pause <= whole


def test_after_the_last_attempt_the_reason_is_told() -> None:
    limits = RetryLimits(failures=1, first_pause_seconds=1)
    attempt = FailingAttempt(
        ConnectionLostError("gone"), ConnectionLostError("still gone")
    )

    with pytest.raises(
        TeacherUnavailableError, match="gave up after 2 failures in a row: still gone"
    ) as failure:
        retries(RecordedPatience(), limits).retry(attempt)

    assert not isinstance(failure.value, ConnectionLostError)


def test_an_answer_sets_the_count_back() -> None:
    patient = retries(RecordedPatience(), RetryLimits(failures=1))

    answers = [
        patient.retry(FailingAttempt(ConnectionLostError("gone"))) for _ in "abc"
    ]

    assert answers == ["answer"] * 3


def test_a_push_back_is_waited_for_and_the_link_is_kept() -> None:
    wait, lost = RecordedPatience(), []
    limits = RetryLimits(failures=2, first_pause_seconds=1)

    retries(wait, limits, lost).retry(FailingAttempt(TeacherBusyError("full", 9)))

    assert 9.5 <= wait.pauses[0] <= 10
    assert lost == []


def test_a_lost_link_is_cleared_away() -> None:
    lost: list[str] = []

    patient = retries(RecordedPatience(), RetryLimits(), lost)
    patient.retry(FailingAttempt(ConnectionLostError("gone")))

    assert lost == ["lost"]


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_no_status_is_more_than_a_hint(code: grpc.StatusCode) -> None:
    failure = failure_of(Ended(code, "the budget is spent"))

    known = (ConnectionLostError, TeacherUnavailableError, UnsignedRefusalError)
    assert type(failure) in known
    said = (
        f"the call ended with {code.name}: the budget is spent "
        "(not signed: whoever carries the call can say this)"
    )
    hint = "; another service may listen at this port"
    assert str(failure).startswith(said)
    assert (hint in str(failure)) == (code is grpc.StatusCode.UNIMPLEMENTED)


def test_a_site_that_is_not_approved_asks_once_and_is_told() -> None:
    lost: list[str] = []
    refusal = failure_of(Ended(grpc.StatusCode.UNAUTHENTICATED, f"{NOT_APPROVED}: x"))
    patience = RecordedPatience()

    with pytest.raises(UnsignedRefusalError, match="approved no key of the site"):
        retries(patience, RetryLimits(), lost).retry(FailingAttempt(refusal))

    assert lost == []


def test_another_sites_key_is_asked_about_once_more_and_told_what_to_do() -> None:
    lost: list[str] = []
    refusal = failure_of(Ended(grpc.StatusCode.UNAUTHENTICATED, f"{NOT_ITS_KEY} a"))
    patience = RecordedPatience()

    with pytest.raises(UnsignedRefusalError, match="`moma-client key` prints"):
        retries(patience, RetryLimits(), lost).retry(FailingAttempt(refusal, refusal))

    assert len(lost) == 2  # the first time the card may be an old one


def test_an_unsigned_refusal_is_asked_about_again_with_a_new_card_and_then_told() -> (
    None
):
    lost: list[str] = []
    refusals = [UnsignedRefusalError("no such key")] * 3

    with pytest.raises(UnsignedRefusalError, match="gave up after 3 failures"):
        retries(RecordedPatience(), RetryLimits(), lost).retry(
            FailingAttempt(*refusals)
        )

    assert lost == ["lost", "lost", "lost"]


@pytest.mark.parametrize("reason", get_args(RefusalReason))
def test_a_signed_refusal_is_the_error_that_the_teacher_met(
    reason: RefusalReason,
) -> None:
    content = refusal_content(Refusal(reason, "no", 1.5))

    told = content_from_sealed(content)

    assert told == Refusal(reason, "no", 1.5)
    error = error_of(told)
    assert str(error) == "the teacher says: no"
    if reason not in ("unavailable", "internal"):
        assert Refusal.of(error).reason == reason
    assert isinstance(error, ConnectionLostError) == (reason == "unavailable")


def test_a_refusal_is_not_repeated() -> None:
    attempt = FailingAttempt(
        BudgetSpentError("all gone"), ConnectionLostError("unseen")
    )

    with pytest.raises(BudgetSpentError, match="all gone"):
        retries(RecordedPatience(), RetryLimits()).retry(attempt)

    assert len(attempt.left) == 1


@given(st.text(max_size=1000))
def test_what_a_peer_writes_is_shown_short_and_printable(details: str) -> None:
    failure = failure_of(Ended(grpc.StatusCode.INTERNAL, details))

    assert str(failure).isprintable()
    assert len(str(failure)) < 420


@pytest.mark.parametrize(
    ("pushback", "seconds"),
    [("0", 0), ("250", 0.25), ("999999999", 300)],
)
def test_a_push_back_is_bounded(pushback: str, seconds: float) -> None:
    ended = Ended(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", pushback)

    failure = failure_of(ended)

    assert isinstance(failure, TeacherBusyError)
    assert failure.retry_after_seconds == seconds


@pytest.mark.parametrize("pushback", [None, "", "-1", "soon", "9" * 5000])
def test_without_a_push_back_a_full_teacher_is_not_asked_again(
    pushback: str | None,
) -> None:
    ended = Ended(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large", pushback)

    failure = failure_of(ended)

    assert type(failure) is TeacherUnavailableError


def test_a_wait_ends_at_its_deadline() -> None:
    since = time.monotonic()

    with pytest.raises(ConnectionLostError, match=r"in 0\.1 s"):
        StoppableWait(threading.Event()).take(SimpleQueue(), 0.1)

    assert 0.1 <= time.monotonic() - since < promised(1)


def test_a_wait_ends_soon_after_the_stop() -> None:
    stop = threading.Event()
    timer = threading.Timer(0.05, stop.set)
    since = time.monotonic()
    timer.start()

    with pytest.raises(StoppedError):
        StoppableWait(stop).take(SimpleQueue(), 60)

    assert time.monotonic() - since < promised(1)


def test_a_pause_ends_at_the_stop() -> None:
    stop = threading.Event()
    stop.set()

    with pytest.raises(StoppedError):
        StoppableWait(stop).pause(60)
