"""Has a teacher prove its log: to what a site saw of it, and to what others saw.

1. What the site saw last is a beginning of what the teacher shows now.
2. A log that follows another one begins with its end.
3. So each state that others were shown, in whichever log, is of one history with what
   the site saw.

The site asks in sealed questions: only the teacher itself can fail to prove something.
"""

from typing import Protocol

from moma_client.audit.log_monitor import LogMonitor
from moma_core.audit import merkle
from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.entry import OpenEntry
from moma_core.audit.log import Proof
from moma_core.audit.receipt import Receipt, check_receipt
from moma_core.errors import AuditError

_MOST_ROTATIONS = 100  # between two states


class LogOperator(Protocol):
    """Who proves."""

    def growth(self, earlier: Checkpoint, later_size: int = 0) -> Proof:
        """Returns what shows how a log grew; 0: to its newest state."""
        ...

    def opening(self, origin: str) -> Receipt:
        """Returns the first entry of a log, and that it is in it."""
        ...


class LogProofs:
    """Holds a log against what was seen of it; used by one thread.

    Args:
        keeper: Is asked.
        monitor: What was seen.
    """

    def __init__(self, keeper: LogOperator, monitor: LogMonitor) -> None:
        self._operator, self._monitor = keeper, monitor
        self._is_compared = False

    def compare(self) -> None:
        """Holds the log against all that is kept; once a connection.

        Raises:
            LogForkError: It is not one log.
            AuditError: What the teacher shows is no proof of anything.
            TeacherError: It does not answer.
        """
        monitor = self._monitor
        monitor.check_trusted()
        if self._is_compared and not monitor.others:
            return
        if monitor.newest is not None:
            monitor.note(self._grown(monitor.newest))
        for other in monitor.others:
            if monitor.newest is not None:
                self._check_one_history(monitor.newest, other)
            monitor.note(other)
        monitor.settle()
        self._is_compared = True

    def see(self, shown: Checkpoint) -> None:
        """Takes a state that an answer shows; of another log, it must be proved.

        Raises:
            As `compare`.
        """
        known = self._monitor.newest
        if known is not None and known.origin != shown.origin:
            self._check_one_history(known, shown)
        self._monitor.note(shown)

    def forget(self) -> None:
        """Compares anew at the next connection."""
        self._is_compared = False

    def _check_one_history(self, one: Checkpoint, other: Checkpoint) -> None:
        earlier, later = _in_order(one, other)
        for _ in range(_MOST_ROTATIONS):
            if earlier.number == later.number:
                break
            earlier, later = _in_order(self._next_log(earlier), later)
        else:
            raise AuditError(
                f"more than {_MOST_ROTATIONS} logs lie between {earlier.origin} and "
                f"{later.origin}"
            )
        if earlier.size == later.size and earlier.root != later.root:
            raise self._monitor.record_fork(earlier, later, "root")
        proof = self._operator.growth(earlier, later.size)
        if not merkle.is_consistent(earlier.tree, later.tree, proof.hashes):
            raise self._monitor.record_fork(earlier, later, "history")

    def _grown(self, earlier: Checkpoint) -> Checkpoint:
        """Returns the newest state of a log, of which `earlier` is a beginning."""
        proof = self._operator.growth(earlier)
        later = proof.checkpoint
        self._monitor.signer(later)
        grown = merkle.is_consistent(earlier.tree, later.tree, proof.hashes)
        if later.origin != earlier.origin or not grown:
            raise self._monitor.record_fork(earlier, later, "history")
        return later

    def _next_log(self, earlier: Checkpoint) -> Checkpoint:
        """Returns a state of the log that follows, which begins with this one's end."""
        closing = self._grown(earlier)
        origin = f"{earlier.keeper}/{earlier.number + 1}"
        opening = self._operator.opening(origin)
        state = opening.checkpoint
        entry = check_receipt(opening, self._monitor.signer(state)).entry
        is_first = state.origin == origin and opening.place == 0
        if not isinstance(entry, OpenEntry) or not is_first:
            raise AuditError(f"the teacher does not show how its log {origin} begins")
        if entry.previous_log != closing:
            raise self._monitor.record_fork(closing, state, "rotation")
        return state


def _in_order(one: Checkpoint, other: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    return (one, other) if one.position <= other.position else (other, one)
