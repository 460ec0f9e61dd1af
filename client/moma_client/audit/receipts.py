"""What a site can show of its queries: receipts, kept before an answer is used.

A receipt says in the teacher's own signature what was asked and charged. What its
signed states of the log tell is in `log_watch`.
"""

import threading
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

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
from moma_core.errors import AuditError
from moma_core.runtime.files import append_line

MessageContext = tuple[str, int]
"""Of an entry: the log's name, and where it stands there."""


@dataclass(frozen=True, slots=True)
class KeptReceipts:
    """What a site's file of receipts says; two of one entry are one.

    Args:
        receipts: How many there are.
        patches: That they charged.
        newest: The newest state of the log that one shows; None: there is none.
    """

    receipts: int
    patches: int
    newest: Checkpoint | None


class ReceiptBook:
    """The receipts of one teacher; safe to use from several threads and processes.

    Args:
        key: The teacher's, as it is pinned.
        path: One receipt a line; None: they are checked and not kept.
    """

    def __init__(self, key: VerifyingKey, path: Path | None) -> None:
        self._key, self._path = key, path
        self._lock = threading.Lock()

    def check(self, receipt: Receipt, own: Expectation) -> None:
        """Checks that a receipt is true, and of the site's own query.

        Raises:
            AuditError: It is forged, or about something else.
        """
        check_own(receipt, self._key, own)

    def keep(self, receipts: Sequence[Receipt]) -> None:
        """Keeps receipts that were checked; only then may an answer be used."""
        if self._path is None:
            return
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            for receipt in receipts:
                append_line(self._path, receipt.to_json().encode())

    def proves(self, checkpoint: Checkpoint) -> bool:
        """Whether the pinned key signed a state, so that its receipts are believed."""
        return checkpoint.key == str(self._key)

    def places(self) -> set[MessageContext]:
        """Returns which entries have a receipt in the file.

        Raises:
            AuditError: There is no file to be kept in, or it is damaged.
        """
        if self._path is None:
            raise AuditError("receipts are kept nowhere")
        return set(map(_place, read_receipts(self._path)))

    def missing(
        self, receipts: Sequence[Receipt], site: str, kept: Set[MessageContext]
    ) -> list[Receipt]:
        """Returns those that a crash kept from the file.

        Args:
            receipts: As the log's keeper shows them.
            site: Whose they must be.
            kept: The file's.

        Raises:
            AuditError: One is forged, or of another site.
        """
        for receipt in receipts:
            entry = check_receipt(receipt, self._key).entry
            if not isinstance(entry, QueryEntry) or entry.site != site:
                raise AuditError(f"the receipt for entry {receipt.place} is another's")
        return [receipt for receipt in receipts if _place(receipt) not in kept]


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


def verify_receipts(path: Path, keys: Sequence[VerifyingKey]) -> KeptReceipts:
    """Checks every kept receipt, with nobody's help.

    Args:
        path: One receipt a line.
        keys: The teacher's: the pinned one, and those that were pinned before it.

    Raises:
        AuditError: One is forged, two show a log with two faces, or one request was
            charged twice.
    """
    patches = 0
    charged: set[str] = set()
    places: set[MessageContext] = set()
    faces: dict[tuple[str, int], str] = {}
    for receipt in read_receipts(path):
        state = receipt.checkpoint
        entry = check_receipt(receipt, signed_by(state, keys)).entry
        root = faces.setdefault((state.origin, state.size), state.root)
        if root != state.root:
            raise AuditError(
                f"the log {state.origin} shows two faces at {state.size} entries"
            )
        if _place(receipt) not in places and isinstance(entry, QueryEntry):
            _charge_once(entry, charged)
            patches += entry.charged
        places.add(_place(receipt))
    return KeptReceipts(len(places), patches, newest_shown(path))


def _charge_once(entry: QueryEntry, charged: set[str]) -> None:
    if entry.charged and entry.request in charged:
        raise AuditError(f"request {entry.request} was charged more than once")
    if entry.charged:
        charged.add(entry.request)


def _place(receipt: Receipt) -> MessageContext:
    return receipt.checkpoint.origin, receipt.place


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
