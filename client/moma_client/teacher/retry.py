"""When a call to the teacher fails: which error it is, and whether to retry."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from random import Random
from typing import Final, TypeVar, cast

import grpc

from moma_core.end_to_end.pinned_sites import NOT_APPROVED
from moma_core.end_to_end.sealed_messages import NOT_ITS_KEY
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
    printable_line,
)
from moma_core.teacher.refusal import Refusal

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_STOP_POLL_SECONDS = 0.25
_LONGEST_PUSHBACK_SECONDS = 300.0
_LONGEST_DETAILS = 300

_UNSIGNED: Final = "not signed: whoever carries the call can say this"
_REFUSED: Final = {CATALOGUE[kind].status for kind in (NotAuthorizedError, PolicyError)}
_UNKNOWN: Final = "UNIMPLEMENTED"
_BUSY: Final = CATALOGUE[TeacherBusyError].status
_MOST_REFUSALS: Final = 2  # asked again with a new card, whose keys may be others


class ConnectionLostError(TeacherUnavailableError):
    """The connection failed in a way that opening it again may mend."""


class NotApprovedError(UnsignedRefusalError):
    """The line says that the teacher's owner has not approved this site yet."""


class OtherKeyError(UnsignedRefusalError):
    """The line says that the request is not signed with this site's approved key.

    A card that changed gives the same line, so it is asked once more with a new one.
    """


def failure_of(error: grpc.RpcError) -> TeacherError:
    """Returns our own error for a call's end.

    A status is a hint for the operator and for the next attempt. Nothing else depends
    on it, since nobody has signed it: a refusal of the teacher is in a sealed response.
    """
    call = cast("grpc.Call", error)  # what a call raises is the call itself
    status = call.code().name
    message = f"the call ended with {status}: {_shown(call.details())} ({_UNSIGNED})"
    if status == _UNKNOWN:  # no repetition teaches it the call
        return TeacherUnavailableError(
            f"{message}; another service may listen at this port, such as the "
            f"coordinator's enrolment in place of its relay (by default 8446)"
        )
    if status in _REFUSED:
        details = call.details() or ""
        if NOT_ITS_KEY in details:
            return OtherKeyError(
                f"{message}; if identity.signing_key is new, or of another site, the "
                f"owner approves the fingerprint that `moma-client key` prints, or "
                f"the config names the site's own key"
            )
        is_fresh = NOT_APPROVED in details
        return (NotApprovedError if is_fresh else UnsignedRefusalError)(message)
    if status == _BUSY:
        pushback = _pushback_seconds(call.trailing_metadata())
        if pushback is None:  # too large a message, which stays so
            return TeacherUnavailableError(message)
        return TeacherBusyError(message, pushback)
    return ConnectionLostError(message)


def error_of(refusal: Refusal) -> MomaError:
    """Returns our own error for what the teacher itself refuses, signed."""
    error = refusal.error()
    if refusal.reason == "unavailable":
        return ConnectionLostError(str(error))
    return error


def _shown(details: str | None) -> str:
    """Returns what a peer wrote, fit for a log: printable and short."""
    return printable_line(details or "", _LONGEST_DETAILS) or "no reason given"


def _pushback_seconds(
    metadata: Sequence[tuple[str, str | bytes]] | None,
) -> float | None:
    """Returns after how long the teacher allows a retry, None for never."""
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
            ConnectionLostError: Nothing came within `seconds`.
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
                    raise ConnectionLostError(message) from None


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """How often a site retries; a success sets the count back.

    Args:
        failures: Failures in a row after which it gives up.
        first_pause_seconds: Pause after the first failure; each further one is twice
            as long, and all are shortened by chance, to at least half.
        longest_pause_seconds: Pause at which the doubling ends.
    """

    failures: int = 10
    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 30.0


FAIL_FAST = RetryLimits(failures=2)
"""Where the site can do without the teacher."""

ONCE = RetryLimits(failures=0)
"""Where a person waits for what is wrong."""


class Retries:
    """Retries after failures that may pass, with growing pauses between.

    Args:
        limits: When to give up.
        wait: Makes the pauses, and ends them at the operator's stop.
        random: Spreads the pauses, so that sites do not come back all at once.
        on_lost: Called after a lost connection, before the pause.
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
            UnsignedRefusalError: The line refused, also a new connection and card; or
                the site is not approved.
            TeacherError: It failed in a way that no repetition mends.
            StoppedError: The operator stops the program.
        """
        while True:
            try:
                result = attempt()
            except NotApprovedError:
                raise  # the owner approves in hours, not in seconds
            except TeacherBusyError as failure:
                self._pause_after(failure)
            except (ConnectionLostError, UnsignedRefusalError) as failure:
                self._on_lost()
                self._pause_after(failure)
            else:
                self._failures = self._refusals = 0
                return result

    def _pause_after(self, failure: TeacherError) -> None:
        self._failures += 1
        is_refused = isinstance(failure, UnsignedRefusalError)
        self._refusals += is_refused
        most = 1 if isinstance(failure, OtherKeyError) else _MOST_REFUSALS
        if self._failures > self._limits.failures or self._refusals > most:
            kind = UnsignedRefusalError if is_refused else TeacherUnavailableError
            count = self._failures
            tried = (
                f"waited for the teacher's answer and gave up after {count} failures "
                f"in a row: "
            )
            raise kind(f"{tried if count > 1 else ''}{failure}") from failure
        # capped before it is raised: two to a large power is no float any more
        doublings = min(self._failures - 1, 30)
        pause = self._limits.first_pause_seconds * 2**doublings
        pause = min(pause, self._limits.longest_pause_seconds)
        pause *= self._random.uniform(0.5, 1)
        if isinstance(failure, TeacherBusyError):
            pause += failure.retry_after_seconds
        _logger.warning("retrying in %.1f s: %s", pause, failure)
        self._wait.pause(pause)
