"""What a site has seen of a teacher's log, and what it does when the log forks.

state_dir/receipts/NAME.jsonl          the receipts; each has a state of the log
                   NAME.seen.json      the newest state, and what others were shown
                   NAME.evidence.json  two states that cannot both be true

All states are signed by the teacher, and it proves that they are of one history:

1. What the site saw last is a beginning of what the teacher shows now.
2. A log that succeeds another one begins with its end.
3. So each state that others were shown, in whichever log, is of one history with what
   the site saw.

The site requests proofs under seal: only the teacher itself can fail to give one.
While there is evidence of a fork, nothing is requested of the teacher: who shows two
parties two logs can charge either of them whatever it likes. An operator moves the
file away.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moma_client.audit.receipts import newest_shown, signed_by
from moma_client.identity.pinned_teacher import PinnedTeacher
from moma_core.audit import merkle
from moma_core.audit.checkpoint import MOST_CHECKPOINTS, Checkpoint, Proof
from moma_core.audit.entry import OpenEntry
from moma_core.audit.receipt import Receipt, check_receipt
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import AuditError, LogForkError
from moma_core.runtime.files import locked, make_folder, write_private

_logger = logging.getLogger(__name__)

Fork = Literal["root", "history", "rotation"]
Mismatch = Literal["signature"] | Fork
"""As the metric names it; one of the signature is nothing against the teacher."""

_MOST_ROTATIONS = 100  # between two states

_SENTENCES: dict[Fork, str] = {
    "root": "the log {one.origin} forked: two roots of {one.size} entries",
    "history": (
        "the log {one.origin} forked: its state at {one.size} entries is no beginning "
        "of that of {other.origin} at {other.size}"
    ),
    "rotation": (
        "the log {other.origin} does not begin where {one.origin} ended, at {one.size} "
        "entries"
    ),
}


class _SeenCheckpoint(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    newest: Checkpoint | None = None
    others: tuple[Checkpoint, ...] = Field(default=(), max_length=MOST_CHECKPOINTS)


class LogMonitor:
    """Remembers a teacher's log; processes of one site share the files.

    Args:
        pinned: The teacher, its keys, and where its receipts are kept.
        on_mismatch: Called with the reason of each mismatch.

    Attributes:
        newest: The newest state that this site was shown; None: nothing yet.
        others: States that others were shown, and that are not proved here yet.

    Raises:
        AuditError: What was seen cannot be read.
    """

    def __init__(
        self, pinned: PinnedTeacher, on_mismatch: Callable[[Mismatch], None]
    ) -> None:
        self._pinned, self._on_mismatch = pinned, on_mismatch
        self._path = pinned.receipts
        self.newest: Checkpoint | None = None
        self.others: tuple[Checkpoint, ...] = ()
        if self._path is not None:
            self.newest = newest_seen(self._path)
            self.others = _read(self._path).others

    def check_trusted(self) -> None:
        """Refuses a teacher against which there is evidence.

        Raises:
            LogForkError: There is.
        """
        if self._path is not None and _evidence(self._path).exists():
            raise LogForkError(
                f"the log of {self._pinned.teacher} forked{self._fate()}"
            )

    def signer(self, checkpoint: Checkpoint) -> VerifyingKey:
        """Returns the teacher's key, this or a former one, that signed a state.

        Raises:
            AuditError: It is another's, or forged.
        """
        keys = (self._pinned.teacher_key, *self._pinned.former_keys)
        return signed_by(checkpoint, keys)

    def note(self, shown: Checkpoint) -> None:
        """Takes a state that was checked: its signature, and where it comes from.

        Raises:
            LogForkError: The newest one is of the same size, and another.
        """
        self._check_root(shown)
        if self.newest is None or self.newest.position < shown.position:
            self.newest = shown

    def add_others(self, shown: Iterable[Checkpoint]) -> None:
        """Takes states that others say they were shown, for the teacher to prove.

        What it did not sign is ignored: whoever hands it on may have made it.

        Raises:
            LogForkError: One contradicts what this site was shown, or there was
                evidence before.
        """
        self.check_trusted()
        unproved = {(each.origin, each.tree): each for each in self.others}
        for each in shown:
            if each.keeper != f"{self._pinned.federation}/{self._pinned.teacher}":
                continue
            try:
                each.check(self._pinned.teacher_key)
            except AuditError as error:
                _logger.warning("what others are said to have seen: %s", error)
                self._on_mismatch("signature")
                continue
            self._check_root(each)
            if self.newest is None or each.position != self.newest.position:
                unproved[each.origin, each.tree] = each
        self.others = tuple(unproved.values())[-MOST_CHECKPOINTS:]
        if self.others:
            self._keep(lambda _kept: self.others)

    def mark_proved(self) -> None:
        """Keeps the newest state; all that others were shown is proved."""
        proved, self.others = self.others, ()
        self._keep(lambda kept: tuple(each for each in kept if each not in proved))

    def record_fork(
        self, one: Checkpoint, other: Checkpoint, fork: Fork
    ) -> LogForkError:
        """Keeps the evidence, and returns what to raise.

        Args:
            one: Signed; the earlier one.
            other: Signed, too, and not of one history with it.
            fork: How they differ.
        """
        self._on_mismatch(fork)
        if self._path is not None:
            make_folder(self._path.parent)
            lines = f"[{one.to_json()},\n{other.to_json()}]\n"
            write_private(_evidence(self._path), lines.encode())
        sentence = _SENTENCES[fork].format(one=one, other=other)
        return LogForkError(f"{sentence}{self._fate()}")

    def _check_root(self, shown: Checkpoint) -> None:
        known = self.newest
        if (
            known is not None
            and known.position == shown.position
            and known.root != shown.root
        ):
            raise self.record_fork(known, shown, "root")

    def _fate(self) -> str:
        if self._path is None:
            return ""
        return (
            f"; both states are kept in {_evidence(self._path)}, and "
            f"{self._pinned.teacher} is asked nothing until that file is moved away"
        )

    def _keep(
        self, others: Callable[[tuple[Checkpoint, ...]], tuple[Checkpoint, ...]]
    ) -> None:
        if self._path is None:
            return
        make_folder(self._path.parent)
        with locked(self._path.parent):
            kept = _read(self._path)
            if kept.newest is not None:  # another process may have seen more
                self.note(kept.newest)
            seen = _SeenCheckpoint(newest=self.newest, others=others(kept.others))
            write_private(_file(self._path), seen.model_dump_json().encode())


def newest_seen(receipts: Path) -> Checkpoint | None:
    """Returns the newest state of a log that a site was shown.

    Args:
        receipts: The file of its receipts.

    Raises:
        AuditError: What was seen cannot be read.
    """
    found = (_read(receipts).newest, newest_shown(receipts))
    return max(filter(None, found), key=lambda state: state.position, default=None)


class LogOperator(Protocol):
    """Whoever keeps the log, and proves its states."""

    def growth(self, earlier: Checkpoint, later_size: int = 0) -> Proof:
        """Returns what shows how a log grew; 0: to its newest state."""
        ...

    def opening(self, origin: str) -> Receipt:
        """Returns the first entry of a log, and that it is in it."""
        ...


class LogProofs:
    """Holds a log against what was seen of it; used by one thread.

    Args:
        operator: Whoever keeps the log.
        monitor: What was seen of it.
    """

    def __init__(self, operator: LogOperator, monitor: LogMonitor) -> None:
        self._operator, self._monitor = operator, monitor
        self._is_compared = False

    def compare(self) -> None:
        """Holds the log against all that is kept; once a connection.

        Raises:
            LogForkError: The log forked.
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
        monitor.mark_proved()
        self._is_compared = True

    def see(self, shown: Checkpoint) -> None:
        """Takes a state that a receipt shows; of another log, it must be proved.

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
        """Returns a state of the next log, which begins with this one's end."""
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


def _read(receipts: Path) -> _SeenCheckpoint:
    path = _file(receipts)
    try:
        return _SeenCheckpoint.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _SeenCheckpoint()
    except (OSError, ValidationError):
        raise AuditError(f"cannot read what was seen of a log: {path}") from None


def _file(receipts: Path) -> Path:
    return receipts.with_suffix(".seen.json")


def _evidence(receipts: Path) -> Path:
    return receipts.with_suffix(".evidence.json")


def _in_order(one: Checkpoint, other: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    return (one, other) if one.position <= other.position else (other, one)
