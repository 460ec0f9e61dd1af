"""Appends entries to the log: placed, hashed, written and signed together.

An append is done inside a transaction that others wait for, and costs one row an entry
and one signature for all. The proofs of the new entries need nothing from the disk: the
frontier and what was added are all that they are made of.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from moma_core.audit import merkle, tables
from moma_core.audit.checkpoint import Checkpoint, TreeHead
from moma_core.audit.entry import (
    SALT_BYTES,
    Entry,
    LoggedEntry,
    QueryEntry,
    commitment,
    encode,
)
from moma_core.audit.merkle import Frontier, MerkleNode
from moma_core.audit.receipt import Receipt
from moma_core.audit.tables import Head, Tally, Total, TotalKey
from moma_core.end_to_end.signatures import SigningKey
from moma_core.runtime.database import insert_if_new

KEPT_EVERY = 1024
"""Entries between two checkpoints that are kept, so that a fault has bounds."""


@dataclass(frozen=True, slots=True)
class Written:
    """An entry that stands in the log once its transaction is committed.

    Args:
        entry: What it says.
        place: Index in the log, from 0.
        receipt: Makes its receipt; to be called after `LogAppender.finish`.
    """

    entry: Entry
    place: int
    receipt: Callable[[], Receipt]


class LogAppender:
    """Appends to the open log, within one transaction.

    Args:
        database: In a transaction, with the head locked.
        head: As it was locked.
        key: Signs the checkpoint.
        now_ms: By the log operator's clock, milliseconds since 1970, UTC.

    Attributes:
        totals: Once finished, those that the new entries changed.
    """

    def __init__(
        self, database: Connection, head: Head, key: SigningKey, now_ms: int
    ) -> None:
        self.database = database
        self.head = head
        self._key = key
        self._time_ms = max(now_ms, head.time_ms)  # a clock that is set back
        self._previous = head.previous
        self._frontier = Frontier.from_bytes(head.size, head.peaks)
        self._nodes: dict[MerkleNode, bytes] = self._frontier.nodes()
        self._rows: list[dict[str, object]] = []
        self._tally = Tally()
        self._checkpoint: Checkpoint | None = None
        self.totals: dict[TotalKey, Total] = {}

    @property
    def time_ms(self) -> int:
        """Time of the new entries, milliseconds since 1970, UTC."""
        return self._time_ms

    @property
    def size(self) -> int:
        """Entries of the log, the new ones included."""
        return self._frontier.size

    def has_query(self, site: str, request_id: bytes) -> bool:
        """Whether a query of a site has an entry, in this log or one before it."""
        for row in self._rows:
            if (row["site"], row["request_id"]) == (site, request_id):
                return True
        leaves = tables.leaves.c
        found = select(leaves.place).where(
            leaves.site == site, leaves.request_id == request_id
        )
        return self.database.scalar(found.limit(1)) is not None

    def add(self, entry: Entry) -> Written:
        """Places an entry that hides nothing."""
        return self._add(entry, salt=b"", site="", request_id=b"")

    def add_query(self, entry: QueryEntry, digest: bytes) -> Written:
        """Places a query's entry under a new salt.

        Args:
            entry: Its commitment is replaced.
            digest: SHA-256 of the request.
        """
        salt = secrets.token_bytes(SALT_BYTES)
        entry = entry.model_copy(update={"commitment": commitment(salt, digest)})
        request_id = bytes.fromhex(entry.request)
        self._tally.add(entry)
        return self._add(entry, salt=salt, site=entry.site, request_id=request_id)

    def finish(self, new_key: SigningKey | None = None) -> Checkpoint:
        """Writes the entries and signs the tree that they end; once, at the end.

        Args:
            new_key: Signs from here on, if the last entry introduced it.
        """
        size = self.size
        checkpoint = Checkpoint.sign(
            TreeHead(self.head.origin, size, self._frontier.root(), self._time_ms),
            new_key or self._key,
        )
        if self._rows:
            self.database.execute(insert(tables.leaves), self._rows)
            self.totals = self._tally.write(self.database)
        if new_key or size // KEPT_EVERY > self.head.size // KEPT_EVERY:
            self.keep(checkpoint)
        self.database.execute(
            update(tables.head).values(
                size=size,
                peaks=self._frontier.to_bytes(),
                previous=self._previous,
                time_ms=self._time_ms,
                key=checkpoint.key,
                checkpoint=checkpoint.to_json(),
            )
        )
        self._checkpoint = checkpoint
        return checkpoint

    def finish_if_grown(self) -> Checkpoint:
        """Does as `finish` where entries were added; else returns the signed state.

        A charge that is only reserved leaves the log as it is: to sign it again would
        say nothing new.
        """
        if self.head.checkpoint is None or self.size > self.head.size:
            return self.finish()
        return self.head.checkpoint

    def keep(self, checkpoint: Checkpoint) -> None:
        """Keeps a checkpoint beside the newest one."""
        insert_if_new(
            self.database,
            tables.checkpoints,
            number=self.head.number,
            size=checkpoint.size,
            origin=checkpoint.origin,
            checkpoint=checkpoint.to_json(),
        )

    def _add(
        self, entry: Entry, *, salt: bytes, site: str, request_id: bytes
    ) -> Written:
        place = self.size
        leaf = encode(
            LoggedEntry(
                sequence=place,
                time_ms=self._time_ms,
                previous=self._previous,
                entry=entry,
            )
        )
        full = self._frontier.push(merkle.leaf_hash(leaf))
        for level, node in enumerate(full):
            self._nodes[MerkleNode(level, place >> level)] = node
        self._previous = full[0].hex()
        self._rows.append(
            {
                "number": self.head.number,
                "place": place,
                "leaf": leaf,
                "nodes": b"".join(full),
                "salt": salt,
                "site": site,
                "request_id": request_id,
            }
        )
        return Written(entry, place, lambda: self._receipt(leaf, salt, place))

    def _receipt(self, leaf: bytes, salt: bytes, place: int) -> Receipt:
        if self._checkpoint is None:
            raise ValueError("the entries are not written yet")
        terms = merkle.inclusion_terms(place, self._checkpoint.size)
        proof = merkle.resolve(terms, self._nodes.__getitem__)
        return Receipt(leaf, salt, place, tuple(proof), self._checkpoint)
