"""What a site can show of its queries: receipts, kept before an output is used.

A receipt says in the teacher's own signature what was requested and charged. What its
signed states of the log show is in `log_monitor`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from moma_client.identity.pinned_teacher import PinnedTeacher
from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.entry import QueryEntry
from moma_core.audit.receipt import (
    LARGEST_RECEIPT_BYTES,
    Expectation,
    Receipt,
    check_own,
    check_receipt,
)
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import AuditError, UnknownEntryError
from moma_core.runtime.files import append_line, make_folder
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.query import PatchQuery

EntryIndex = tuple[str, int]
"""Of an entry: the log's name, and its index there."""

_MOST_LOGS = 1000  # a teacher opens another once in a long while


class ReceiptSource(Protocol):
    """A teacher's log, as its operator shows it."""

    def latest_checkpoint(self, origin: str) -> Checkpoint:
        """Returns the newest state of a log; of the open one for an empty name."""
        ...

    def receipts(self, origin: str, first: int) -> list[Receipt]:
        """Returns this site's next receipts of a log, from an index on."""
        ...


class ReceiptStore:
    """The receipts of one teacher; processes of one site share the file.

    Args:
        pinned: The teacher, this site, and the file: one receipt a line. Without a
            file receipts are checked and not kept.
        check_state: Has the teacher prove a state of its log; raises an AuditError.
        is_lossy: Whether the teacher sees other pixels than the site has.
    """

    def __init__(
        self,
        pinned: PinnedTeacher,
        check_state: Callable[[Checkpoint], None],
        *,
        is_lossy: bool = False,
    ) -> None:
        self._pinned, self._path = pinned, pinned.receipts
        self._check_state, self._is_lossy = check_state, is_lossy

    def keep(
        self, receipt: Receipt | None, query: PatchQuery, card: TeacherCard
    ) -> None:
        """Keeps what proves a response; without it the response is not used.

        Raises:
            AuditError: There is no receipt, it is forged, or about something else.
            LogForkError: It is of another log than was seen before.
        """
        if receipt is None:
            raise AuditError("the teacher's response has no receipt of its log")
        own = Expectation(
            site=self._pinned.site,
            card=card,
            request_id=query.request_id,
            patches=len(query),
            digest=None if self._is_lossy else query.digest(),
        )
        check_own(receipt, self._pinned.teacher_key, own)
        self._check_state(receipt.checkpoint)
        self._append([receipt])

    def fetch(self, log: ReceiptSource) -> int:
        """Keeps the receipts that are missing; returns how many.

        Of the open log, and of those before it that the pinned key has signed.

        Raises:
            AuditError: One is forged or of another site, or receipts are kept nowhere.
            TeacherError: The teacher does not answer.
        """
        if self._path is None:
            raise AuditError("receipts are kept nowhere")
        kept = set(map(_index, read_receipts(self._path)))
        added = 0
        for origin in self._origins(log):
            first = 0
            while found := log.receipts(origin, first):
                self._check_ours(found)
                missing = [each for each in found if _index(each) not in kept]
                for state in {receipt.checkpoint for receipt in missing}:
                    self._check_state(state)
                self._append(missing)
                added += len(missing)
                if found[-1].place < first:
                    raise AuditError(f"the log {origin} shows its entries out of order")
                first = found[-1].place + 1
        return added

    def _origins(self, log: ReceiptSource) -> list[str]:
        """Returns the logs whose receipts the pinned key proves, the first one first.

        A key that was given up is not believed any more, here as everywhere. The state
        of a log comes unsealed, and who carries it may show an older one, so that what
        logs there are is asked with the receipts, which come sealed.
        """
        name, _, shown = log.latest_checkpoint("").origin.rpartition("/")
        newest = int(shown)
        while self._signer(log, f"{name}/{newest + 1}") is not None:
            newest += 1
        found: list[str] = []
        for number in range(newest, max(0, newest - _MOST_LOGS), -1):
            origin = f"{name}/{number}"
            if self._signer(log, origin) not in {"", str(self._pinned.teacher_key)}:
                break
            found.insert(0, origin)
        return found

    def _signer(self, log: ReceiptSource, origin: str) -> str | None:
        """Returns whose key signed a log; empty: it has nothing of ours; None: none."""
        try:
            found = log.receipts(origin, 0)
        except UnknownEntryError:
            return None
        return found[0].checkpoint.key if found else ""

    def _check_ours(self, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            entry = check_receipt(receipt, self._pinned.teacher_key).entry
            if not isinstance(entry, QueryEntry) or entry.site != self._pinned.site:
                raise AuditError(f"the receipt for entry {receipt.place} is another's")

    def _append(self, receipts: Sequence[Receipt]) -> None:
        if self._path is None:
            return
        make_folder(self._path.parent)
        for receipt in receipts:
            append_line(self._path, receipt.to_json().encode())


def receipts_path(state_dir: Path, teacher: str) -> Path:
    """Returns where a teacher's receipts are kept."""
    return state_dir / "receipts" / f"{teacher}.jsonl"


def read_receipts(path: Path) -> Iterator[Receipt]:
    """Yields what a file of receipts holds, if there is one.

    A line that a crash cut is no receipt.

    Raises:
        AuditError: A line in its middle is none, or is too long.
    """
    if not path.exists():
        return
    number = 0
    with path.open("rb") as file:
        while line := file.readline(LARGEST_RECEIPT_BYTES + 1):
            if not line.endswith(b"\n"):
                if file.read(1):
                    raise AuditError(f"{path} has a line that is no receipt")
                return
            number += 1
            try:
                yield Receipt.parse(line)
            except AuditError as error:
                raise AuditError(f"{path} line {number}: {error}") from None


def newest_shown(path: Path) -> Checkpoint | None:
    """Returns the newest state of the log that a kept receipt shows.

    Raises:
        AuditError: As `read_receipts`.
    """
    states = (receipt.checkpoint for receipt in read_receipts(path))
    return max(states, key=lambda state: state.position, default=None)


@dataclass(frozen=True, slots=True)
class VerifiedReceipts:
    """What a site's file of receipts proves; two of one entry are one.

    Args:
        receipts: How many there are.
        patches: Patches that they charged.
        newest: The newest state of the log that one shows; None: there is none.
    """

    receipts: int
    patches: int
    newest: Checkpoint | None


def verify_receipts(path: Path, keys: Sequence[VerifyingKey]) -> VerifiedReceipts:
    """Checks every kept receipt, with nobody's help.

    Args:
        path: The file, one receipt a line.
        keys: The teacher's keys: the pinned one, and those pinned before it.

    Raises:
        AuditError: One is forged, two show a log that forked, or one request was
            charged twice.
    """
    patches = 0
    charged: set[str] = set()
    entries: set[EntryIndex] = set()
    roots: dict[tuple[str, int], str] = {}
    for receipt in read_receipts(path):
        state = receipt.checkpoint
        entry = check_receipt(receipt, signed_by(state, keys)).entry
        root = roots.setdefault((state.origin, state.size), state.root)
        if root != state.root:
            raise AuditError(
                f"the log {state.origin} forked: two roots of {state.size} entries"
            )
        if _index(receipt) not in entries and isinstance(entry, QueryEntry):
            if entry.charged and entry.request in charged:
                raise AuditError(f"request {entry.request} was charged more than once")
            if entry.charged:
                charged.add(entry.request)
            patches += entry.charged
        entries.add(_index(receipt))
    return VerifiedReceipts(len(entries), patches, newest_shown(path))


def signed_by(checkpoint: Checkpoint, keys: Sequence[VerifyingKey]) -> VerifyingKey:
    """Returns which of a teacher's keys signed a state of its log.

    Raises:
        AuditError: None of them did, or the signature is forged.
    """
    for key in keys:
        if str(key) == checkpoint.key:
            checkpoint.check(key)
            return key
    raise AuditError(
        f"a checkpoint of {checkpoint.origin} is signed by {checkpoint.key}, which is "
        f"not teacher.key and not among teacher.former_keys"
    )


def _index(receipt: Receipt) -> EntryIndex:
    return receipt.checkpoint.origin, receipt.place
