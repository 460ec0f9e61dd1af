"""What a site has seen of a teacher's log, and what it does when it shows two faces.

state_dir/receipts/NAME.jsonl          the receipts; each has a state of the log
                   NAME.seen.json      the newest state, and what others were shown
                   NAME.evidence.json  two states that cannot both be true

All states are signed by the teacher.

While there is evidence, the teacher is asked nothing: who shows two parties two logs
can charge either of them whatever it likes. An operator moves the file away.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moma_client.audit.receipts import newest_shown, signed_by
from moma_client.identity.peers import PinnedTeacher
from moma_core.audit.checkpoint import MOST_CHECKPOINTS, Checkpoint
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import AuditError, LogForkError
from moma_core.runtime.files import locked, write_private

_logger = logging.getLogger(__name__)

Face = Literal["root", "history", "rotation"]
Mismatch = Literal["signature"] | Face
"""As the metric names it; one of the signature is nothing against the teacher."""

_SENTENCES: dict[Face, str] = {
    "root": "the log {one.origin} shows two faces: two roots of {one.size} entries",
    "history": (
        "the log {one.origin} shows two faces: its state at {one.size} entries is no "
        "beginning of that of {other.origin} at {other.size}"
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
        ends: Who the teacher is, its keys, and where the receipts are.
        on_mismatch: Is told of each.

    Attributes:
        newest: The newest state that this site was shown; None: nothing yet.
        others: States that others were shown, and that are not proved here yet.

    Raises:
        AuditError: What was seen cannot be read.
    """

    def __init__(
        self, ends: PinnedTeacher, on_mismatch: Callable[[Mismatch], None]
    ) -> None:
        self._ends, self._on_mismatch = ends, on_mismatch
        self._path = ends.receipts
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
                f"the log of {self._ends.teacher} has shown two faces{self._fate()}"
            )

    def signer(self, checkpoint: Checkpoint) -> VerifyingKey:
        """Returns the teacher's key, this or a former one, that signed a state.

        Raises:
            AuditError: It is another's, or forged.
        """
        return signed_by(checkpoint, self._ends.teacher_keys)

    def note(self, shown: Checkpoint) -> None:
        """Takes a state that was checked: its signature, and where it comes from.

        Raises:
            LogForkError: The newest one is of the same size, and another.
        """
        self._check_root(shown)
        if self.newest is None or self.newest.position < shown.position:
            self.newest = shown

    def hear(self, shown: Iterable[Checkpoint]) -> None:
        """Takes states that others say they were shown, for the teacher to prove.

        What it did not sign is ignored: whoever hands it on may have made it.

        Raises:
            LogForkError: One contradicts what this site was shown, or there was
                evidence before.
        """
        self.check_trusted()
        heard = {(each.origin, each.tree): each for each in self.others}
        for each in shown:
            if each.keeper != f"{self._ends.federation}/{self._ends.teacher}":
                continue
            try:
                each.check(self._ends.teacher_key)
            except AuditError as error:
                _logger.warning("what others are said to have seen: %s", error)
                self._on_mismatch("signature")
                continue
            self._check_root(each)
            if self.newest is None or each.position != self.newest.position:
                heard[each.origin, each.tree] = each
        self.others = tuple(heard.values())[-MOST_CHECKPOINTS:]
        if self.others:
            self._keep(lambda _kept: self.others)

    def settle(self) -> None:
        """Keeps the newest state; all that others were shown is proved."""
        proved, self.others = self.others, ()
        self._keep(lambda kept: tuple(each for each in kept if each not in proved))

    def record_fork(
        self, one: Checkpoint, other: Checkpoint, face: Face
    ) -> LogForkError:
        """Keeps the evidence, and returns what to raise.

        Args:
            one: Signed; the earlier one.
            other: Signed, too, and not of one history with it.
            face: How they differ.
        """
        self._on_mismatch(face)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lines = f"[{one.to_json()},\n{other.to_json()}]\n"
            write_private(_evidence(self._path), lines.encode())
        sentence = _SENTENCES[face].format(one=one, other=other)
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
            f"{self._ends.teacher} is asked nothing until that file is moved away"
        )

    def _keep(
        self, others: Callable[[tuple[Checkpoint, ...]], tuple[Checkpoint, ...]]
    ) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
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
