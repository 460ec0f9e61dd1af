"""Replays one log from its first entry, and stops at the first that is wrong."""

from collections.abc import Callable

from moma_core.audit import merkle
from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.entry import (
    CloseEntry,
    KeyEntry,
    LoggedEntry,
    OpenEntry,
    PolicyEntry,
    signed_key,
    signed_policy,
)
from moma_core.audit.merkle import Frontier
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import AuditError, CertificateError, LogForkError


class LogReplay:
    """The state of a log after the entries read so far.

    Args:
        origin: The log's name.
        before: The last checkpoint of the log before it; None: it is the first one.

    Attributes:
        origin: The log's name.
        key: Fingerprint of the key that signs at this point.
        next_log: Where it goes on, once it is closed; empty: it is open.
    """

    def __init__(self, origin: str, before: Checkpoint | None) -> None:
        self.origin = origin
        self.key = ""
        self.next_log = ""
        self._before = before
        self._frontier = Frontier()
        self._previous = ""
        self._time_ms = 0
        self._proven = 0  # entries up to the last good checkpoint
        self._checkpoint: Checkpoint | None = None

    @property
    def size(self) -> int:
        """Entries so far."""
        return self._frontier.size

    def replay(self, leaf: bytes, read: Callable[[bytes], LoggedEntry]) -> LoggedEntry:
        """Takes the next entry.

        Raises:
            AuditError: It is not the next entry of this log.
        """
        place = self.size
        try:
            placed = read(leaf)
        except AuditError as error:
            raise self._wrong(place, str(error)) from None
        if placed.sequence != place:
            raise self._wrong(
                place, f"entry {placed.sequence} stands where it should be"
            )
        if placed.previous != self._previous:
            changed = "it is not the one that the next entry was written after"
            raise self._wrong(max(0, place - 1), changed)
        if placed.time_ms < self._time_ms:
            raise self._wrong(place, "it is older than the one before it")
        self._take(placed)
        leaf_hash = merkle.leaf_hash(leaf)
        self._frontier.push(leaf_hash)
        self._previous, self._time_ms = leaf_hash.hex(), placed.time_ms
        return placed

    def check(self, checkpoint: Checkpoint) -> None:
        """Compares a signed state with the entries before it.

        Raises:
            AuditError: They are not what was signed.
        """
        if checkpoint.origin != self.origin:
            raise AuditError(
                f"a checkpoint of {checkpoint.origin} stands in {self.origin}"
            )
        checkpoint.check(VerifyingKey.parse(self.key))
        if checkpoint.size > self.size:
            raise self._wrong(
                self.size,
                f"it is missing: {checkpoint.size} entries were signed and "
                f"{self.size} are here",
            )
        if checkpoint.tree != (self.size, self._frontier.root()):
            raise AuditError(
                f"{self.origin}: entries from {self._proven} to {self.size - 1} are "
                f"not what was signed at {checkpoint.size} entries; the first that "
                "differs is among them"
            )
        self._proven, self._checkpoint = self.size, checkpoint

    def check_known(self, known: Checkpoint) -> None:
        """Compares a state that others were shown with the entries so far.

        Raises:
            AuditError: The log's key did not sign it.
            LogForkError: Its operator signed another log than this.
        """
        known.check(VerifyingKey.parse(self.key))
        if known.tree != (self.size, self._frontier.root()):
            raise LogForkError(
                f"{self.origin}: the first {self.size} entries are not those that "
                "were signed for others",
                exit_code=AuditError.exit_code,
            )

    def end(self) -> Checkpoint:
        """Returns the log's last checkpoint.

        Raises:
            AuditError: Entries follow it, which nobody signed, or there is none.
        """
        if self._checkpoint is None or self._proven < self.size:
            raise self._wrong(self._proven, "no signature covers it")
        return self._checkpoint

    def _take(self, placed: LoggedEntry) -> None:
        if self.next_log:
            raise self._wrong(placed.sequence, "it stands behind the log's end")
        match placed.entry:
            case OpenEntry() as entry:
                self._open(placed.sequence, entry)
            case KeyEntry() as entry:
                content = signed_key(self.origin, self.key, entry.key)
                self._check_signature("key", content, entry.signature, placed.sequence)
                self.key = entry.key
            case PolicyEntry() as entry:
                content = signed_policy(self.origin, entry.subject, entry.change)
                sequence = placed.sequence
                self._check_signature("policy", content, entry.signature, sequence)
            case CloseEntry() as entry if placed.sequence > 0:
                self.next_log = entry.next_log
            case _ if placed.sequence == 0:
                raise self._wrong(0, "it does not open the log")

    def _open(self, place: int, entry: OpenEntry) -> None:
        if place != 0 or entry.origin != self.origin:
            raise self._wrong(place, f"it opens {entry.origin}")
        if entry.previous_log != self._before:
            raise self._wrong(place, "it does not go on where the log before it ended")
        if self._before is not None and entry.key != self._before.key:
            raise self._wrong(place, "its key is not that of the log before it")
        self.key = entry.key

    def _check_signature(
        self, purpose: str, content: bytes, signature: str, place: int
    ) -> None:
        if not self.key:
            raise self._wrong(place, "it does not open the log")
        key = VerifyingKey.parse(self.key)
        try:
            key.check(purpose, content, bytes.fromhex(signature))
        except CertificateError:
            raise self._wrong(place, f"its {purpose} is not signed") from None

    def _wrong(self, place: int, why: str) -> AuditError:
        return AuditError(f"{self.origin}, entry {place}: {why}")
