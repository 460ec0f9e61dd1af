"""When a call to the teacher fails: which error it is, and whether to ask again."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from random import Random
from typing import Final, TypeVar, cast

import grpc

from moma_core.errors import (
    CATALOGUE,
    MomaError,
    NotAuthorizedError,
    PolicyError,
    StoppedError,
    TeacherBusyError,
    TeacherError,
    TeacherUnavailableError,
    UnsignedRefusalError,
)
from moma_core.teacher.refusal import Refusal

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_STOP_POLL_SECONDS = 0.25
_LONGEST_PUSHBACK_SECONDS = 300.0
_LONGEST_DETAILS = 300

_UNSIGNED: Final = "not signed: whoever carries the call can say this"
_REFUSED: Final = {CATALOGUE[kind].status for kind in (NotAuthorizedError, PolicyError)}
_BUSY: Final = CATALOGUE[TeacherBusyError].status
_MOST_REFUSALS: Final = 2  # asked again with a new card, whose keys may be others


class LinkLostError(TeacherUnavailableError):
    """The link failed in a way that opening it again may mend."""


def failure_of(error: grpc.RpcError) -> TeacherError:
    """Returns our own error for a call's end.

    A status is a hint for the operator and for the next attempt. Nothing else follows
    from it, since nobody has signed it: what a teacher refuses is in a sealed answer.
    """
    call = cast("grpc.Call", error)  # what a call raises is the call itself
    status = call.code().name
    message = f"the call ended with {status}: {_shown(call.details())} ({_UNSIGNED})"
    if status in _REFUSED:
        return UnsignedRefusalError(message)
    if status == _BUSY:
        pushback = _pushback_seconds(call.trailing_metadata())
        if pushback is None:  # too large a message, which stays so
            return TeacherUnavailableError(message)
        return TeacherBusyError(message, pushback)
    return LinkLostError(message)


def error_of(refusal: Refusal) -> MomaError:
    """Returns our own error for what the teacher itself refuses, signed."""
    error = refusal.error()
    if refusal.reason == "unavailable":
        return LinkLostError(str(error))
    return error


def _shown(details: str | None) -> str:
    """Returns what a peer wrote, fit for a log: printable and short."""
    text = "".join(letter if letter.isprintable() else " " for letter in details or "")
    return text[:_LONGEST_DETAILS] or "no reason given"


def _pushback_seconds(
    metadata: Sequence[tuple[str, str | bytes]] | None,
) -> float | None:
    """Returns when the teacher wants to be asked again, None for never."""
    value = dict(metadata or ()).get("grpc-retry-pushback-ms")
    if not isinstance(value, str) or not value.isdecimal() or len(value) > 9:
        return None
    return min(int(value) / 1000, _LONGEST_PUSHBACK_SECONDS)


class StoppableWait:
    """Every wait for the teacher: bounded, and over soon after the operator's stop.

    Args:
        stop: Set when the program is to end.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def pause(self, seconds: float) -> None:
        """Does nothing for a while.

        Raises:
            StoppedError: The operator stops the program.
        """
        if self._stop.wait(seconds):
            raise StoppedError("stopped while waiting for the teacher")

    def take(self, inbox: SimpleQueue[_T], seconds: float) -> _T:
        """Returns the next item of `inbox`.

        Raises:
            LinkLostError: Nothing came within `seconds`.
            StoppedError: The operator stops the program.
        """
        deadline = time.monotonic() + seconds
        while True:
            self.pause(0)
            left = deadline - time.monotonic()
            try:
                return inbox.get(timeout=max(0.0, min(left, _STOP_POLL_SECONDS)))
            except Empty:
                if left <= _STOP_POLL_SECONDS:
                    message = f"nothing came from the teacher in {seconds:g} s"
                    raise LinkLostError(message) from None


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """How stubborn a site is; an answer sets the count back.

    Args:
        failures: In a row, after which it gives up.
        first_pause_seconds: After the first failure; each further pause is twice
            as long, and all are shortened by chance, to at least half.
        longest_pause_seconds: The doubling ends here.
    """

    failures: int = 10
    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 30.0

    def __post_init__(self) -> None:
        pauses_grow = 0 < self.first_pause_seconds <= self.longest_pause_seconds
        if self.failures < 0 or not pauses_grow:
            raise ValueError(f"retry limits must be positive and grow, got {self}")


class Retries:
    """Asks again after failures that may pass, with growing pauses between.

    Args:
        limits: When to give up.
        wait: Does the waiting.
        random: Spreads the pauses, so that sites do not come back all at once.
        on_lost: Clears away a link that was lost, before the pause.
    """

    def __init__(
        self,
        limits: RetryLimits,
        wait: StoppableWait,
        random: Random,
        *,
        on_lost: Callable[[], None],
    ) -> None:
        self._limits = limits
        self._wait = wait
        self._random = random
        self._on_lost = on_lost
        self._failures = self._refusals = 0

    def retry(self, attempt: Callable[[], _T]) -> _T:
        """Returns what `attempt` returns in the end.

        Raises:
            TeacherUnavailableError: It failed too often in a row.
            UnsignedRefusalError: The line refused, also a new connection and card.
            TeacherError: It failed in a way that no repetition mends.
            StoppedError: The operator stops the program.
        """
        while True:
            try:
                answer = attempt()
            except TeacherBusyError as failure:
                self._pause_after(failure)
            except (LinkLostError, UnsignedRefusalError) as failure:
                self._on_lost()
                self._pause_after(failure)
            else:
                self._failures = self._refusals = 0
                return answer

    def _pause_after(self, failure: TeacherError) -> None:
        self._failures += 1
        is_refused = isinstance(failure, UnsignedRefusalError)
        self._refusals += is_refused
        if self._failures > self._limits.failures or self._refusals > _MOST_REFUSALS:
            kind = UnsignedRefusalError if is_refused else TeacherUnavailableError
            message = f"gave up after {self._failures} failures in a row: {failure}"
            raise kind(message) from failure
        # capped before it is raised: two to a large power is no float any more
        doublings = min(self._failures - 1, 30)
        pause = self._limits.first_pause_seconds * 2**doublings
        pause = min(pause, self._limits.longest_pause_seconds)
        pause *= self._random.uniform(0.5, 1)
        if isinstance(failure, TeacherBusyError):
            pause += failure.retry_after_seconds
        _logger.warning("asking again in %.1f s: %s", pause, failure)
        self._wait.pause(pause)
