"""What a site can show of its queries: receipts, kept before an answer is used.

A receipt says in the teacher's own signature what was asked and charged. The newest
state of the log that one shows is held against every later one: a log that shows two
faces is found, and both are kept as evidence.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from moma_core.audit import merkle
from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.entry import QueryEntry
from moma_core.audit.log import Proof
from moma_core.audit.receipt import (
    LARGEST_RECEIPT_BYTES,
    Expectation,
    Receipt,
    check_own,
    check_receipt,
)
from moma_core.errors import AuditError
from moma_core.trust.files import append_private, write_private
from moma_core.trust.signing import VerifyingKey

Place = tuple[str, int]
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
        key: The teacher's, as it was pinned.
        path: One receipt a line; None: they are checked and not kept.
    """

    def __init__(self, key: VerifyingKey, path: Path | None) -> None:
        self._key, self._path = key, path
        self._lock = threading.Lock()
        self._newest: Checkpoint | None = None
        if path is not None and path.exists():
            for receipt in read_receipts(path):
                self._newest = _newer(self._newest, receipt.checkpoint)

    @property
    def newest(self) -> Checkpoint | None:
        """The newest state of the log that was seen."""
        return self._newest

    def keep(self, receipt: Receipt, own: Expectation) -> None:
        """Checks a receipt and keeps it; only then may its answer be used.

        Raises:
            AuditError: It is forged, about something else, or of a log that showed
                another face before.
        """
        check_own(receipt, self._key, own)
        with self._lock:
            self._compare_equal(receipt.checkpoint)
            self._newest = _newer(self._newest, receipt.checkpoint)
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                append_private(self._path, receipt.to_json().encode())

    def proves(self, checkpoint: Checkpoint) -> bool:
        """Whether the pinned key signed a state, so that its receipts are believed."""
        return checkpoint.key == str(self._key)

    def places(self) -> set[Place]:
        """Returns which entries have a receipt in the file.

        Raises:
            AuditError: There is no file to be kept in, or it is damaged.
        """
        if self._path is None:
            raise AuditError("receipts are kept nowhere")
        kept = read_receipts(self._path) if self._path.exists() else ()
        return set(map(_place, kept))

    def add_missing(
        self, receipts: Sequence[Receipt], site: str, kept: set[Place]
    ) -> int:
        """Keeps receipts that a crash kept from the file.

        Args:
            receipts: As the log's keeper shows them.
            site: Whose they must be.
            kept: The file's; those that are added are added here too.

        Returns:
            How many were missing.

        Raises:
            AuditError: One is forged, of another site, or there is no file.
        """
        if self._path is None:
            raise AuditError("receipts are kept nowhere")
        missing = []
        for receipt in receipts:
            entry = check_receipt(receipt, self._key).entry
            if not isinstance(entry, QueryEntry) or entry.site != site:
                raise AuditError(f"the receipt for entry {receipt.place} is another's")
            if _place(receipt) not in kept:
                missing.append(receipt)
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            for receipt in missing:
                self._compare_equal(receipt.checkpoint)
                append_private(self._path, receipt.to_json().encode())
                kept.add(_place(receipt))
        return len(missing)

    def compare(self, earlier: Checkpoint, proof: Proof) -> None:
        """Checks that a log has only grown since.

        Args:
            earlier: As it was kept.
            proof: Of the log's keeper, from there to what it shows now.

        Raises:
            AuditError: It has not; both states are kept as evidence.
        """
        later = proof.checkpoint
        later.check(self._key)
        grown = merkle.is_consistent(earlier.tree, later.tree, proof.hashes)
        if later.origin != earlier.origin or not grown:
            raise self._two_faces(earlier, later)
        with self._lock:
            self._newest = _newer(self._newest, later)

    def _compare_equal(self, shown: Checkpoint) -> None:
        known = self._newest
        if known is None or known.origin != shown.origin:
            return
        if known.size == shown.size and known.root != shown.root:
            raise self._two_faces(known, shown)

    def _two_faces(self, one: Checkpoint, other: Checkpoint) -> AuditError:
        kept = ""
        if self._path is not None:
            evidence = self._path.with_suffix(".evidence.json")
            lines = f"[{one.to_json()},\n{other.to_json()}]\n"
            write_private(evidence, lines.encode())
            kept = f"; both are kept in {evidence}"
        return AuditError(
            f"the log {one.origin} shows two faces: its state at {one.size} entries is "
            f"no beginning of the one at {other.size}{kept}"
        )


def read_receipts(path: Path) -> Iterator[Receipt]:
    """Yields what a file of receipts holds; a line that a crash cut is no receipt.

    Raises:
        AuditError: A line in its middle is none, or is too long.
    """
    with path.open("rb") as file:
        while line := file.readline(LARGEST_RECEIPT_BYTES + 1):
            if not line.endswith(b"\n"):
                if file.read(1):
                    raise AuditError(f"{path} has a line that is no receipt")
                return
            yield Receipt.parse(line)


def verify_receipts(path: Path, key: VerifyingKey) -> KeptReceipts:
    """Checks every kept receipt, with nobody's help.

    Raises:
        AuditError: One is forged, or two show a log with two faces.
    """
    patches = 0
    places: set[Place] = set()
    faces: dict[tuple[str, int], str] = {}
    newest: Checkpoint | None = None
    for receipt in read_receipts(path):
        entry = check_receipt(receipt, key).entry
        state = receipt.checkpoint
        root = faces.setdefault((state.origin, state.size), state.root)
        if root != state.root:
            raise AuditError(
                f"the log {state.origin} shows two faces at {state.size} entries"
            )
        if _place(receipt) not in places:
            patches += getattr(entry, "charged", 0)
        places.add(_place(receipt))
        newest = _newer(newest, state)
    return KeptReceipts(len(places), patches, newest)


def _place(receipt: Receipt) -> Place:
    return receipt.checkpoint.origin, receipt.place


def _newer(one: Checkpoint | None, other: Checkpoint) -> Checkpoint:
    return other if one is None or _order(one) < _order(other) else one


def _order(state: Checkpoint) -> tuple[int, int]:
    """Says which of two states is later: logs of one keeper are counted up."""
    return int(state.origin.rpartition("/")[2]), state.size
