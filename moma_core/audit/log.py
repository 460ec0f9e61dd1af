"""The log of one operator: opened, appended to, queried for proofs, signed anew.

Its rules:

1. An entry is in the log when the transaction of its append is committed, and is never
   changed or removed after.
2. Entries have places without gaps, also where several gateways append.
3. Only the key that the log itself names signs it; another one is introduced by an
   entry that the old one has signed.
4. What the log has signed is never contradicted by what it signs later.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, select

from moma_core.audit import merkle, tables
from moma_core.audit.append import LogAppender
from moma_core.audit.checkpoint import Checkpoint, Proof
from moma_core.audit.entry import KeyEntry, OpenEntry, decode
from moma_core.audit.merkle import MerkleNode, Term
from moma_core.audit.receipt import MOST_RECEIPTS, Receipt
from moma_core.audit.tables import Head
from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import AuditError, UnknownEntryError
from moma_core.runtime.database import create_tables

MOST_AHEAD = timedelta(minutes=5)
"""By which the clocks of gateways may differ."""


class AuditLog:
    """The log in a database; every operation takes the caller's transaction.

    Args:
        federation: Of the log operator.
        operator: The teacher's name.
        key: Signs checkpoints.
        clock: Gives the time, with a time zone.
    """

    def __init__(
        self,
        federation: str,
        operator: str,
        key: SigningKey,
        clock: Callable[[], datetime],
    ) -> None:
        self._first_origin = f"{federation}/{operator}/1"
        self.key = key
        self._clock = clock

    def open(self, engine: Engine) -> Checkpoint:
        """Makes the tables and the first entry, unless they are there.

        A log that is there is not signed anew: to look at one dates nothing.

        Raises:
            AuditError: The log in this database is another's.
        """
        create_tables(engine, tables.tables)
        with engine.begin() as database:
            fingerprint = str(self.key.public)
            head = tables.make_head(database, self._first_origin, fingerprint)
            if head.origin.rpartition("/")[0] != self._first_origin.rpartition("/")[0]:
                raise AuditError(f"the database holds the log {head.origin}")
            self._check_key(head)
            if head.checkpoint is not None:
                return head.checkpoint
            appender = self._appender(database, head)
            appender.add(OpenEntry(origin=head.origin, key=fingerprint))
            return appender.finish()

    def begin(self, database: Connection, *, ends_log: bool = False) -> LogAppender:
        """Begins an append, and locks out every other one until the commit.

        To be called before anything else is read or locked in the transaction.

        Args:
            database: In a transaction.
            ends_log: So that the log's time does not matter any more.

        Raises:
            AuditError: There is no log, another key signs it, or its newest entry is
                of a time that is still to come.
        """
        head = tables.locked_head(database)
        if head is None:
            raise AuditError("the database holds no log")
        if not ends_log:
            self._check_time(head)
        return self._appender(database, head)

    def _check_time(self, head: Head) -> None:
        """A log never goes back in time: a wrong clock dates it ahead for good."""
        newest = datetime.fromtimestamp(head.time_ms / 1000, UTC)
        if newest - self._clock() > MOST_AHEAD:
            raise AuditError(
                f"the newest entry of {head.origin} is of {newest:%Y-%m-%d %H:%M} UTC, "
                "which is still to come: put the clock right, or, if it was wrong "
                "then, begin another log with `moma-server audit rotate`"
            )

    def latest(self, database: Connection, origin: str = "") -> Checkpoint:
        """Returns the newest checkpoint.

        Args:
            database: In a transaction.
            origin: Of a log, closed ones too; empty: the open one.

        Raises:
            UnknownEntryError: There is no such log.
        """
        head = tables.read_head(database)
        if head is not None and origin in ("", head.origin) and head.checkpoint:
            return head.checkpoint
        kept = database.scalar(
            select(tables.checkpoints.c.checkpoint)
            .where(tables.checkpoints.c.origin == origin)
            .order_by(tables.checkpoints.c.size.desc())
            .limit(1)
        )
        if kept is None:
            raise UnknownEntryError(f"there is no log {origin!r} here")
        return Checkpoint.parse(kept)

    def inclusion(self, database: Connection, origin: str, place: int) -> Receipt:
        """Returns an entry that hides nothing, and the proof that it is in the log.

        Raises:
            UnknownEntryError: There is no such entry, or it is a query, which only
                its site may see.
        """
        newest = self.latest(database, origin)
        number = newest.number
        row = database.execute(
            select(tables.leaves).where(
                tables.leaves.c.number == number, tables.leaves.c.place == place
            )
        ).one_or_none()
        if row is None or row.site:
            raise UnknownEntryError(
                f"the log {newest.origin} shows no entry {place} to all"
            )
        return self._receipts(database, [row], newest)[0]

    def consistency(
        self, database: Connection, origin: str, size: int, later_size: int = 0
    ) -> Proof:
        """Returns the proof that a state of a log grew out of that of a size.

        Args:
            database: In a transaction.
            origin: Of the log; empty: the open one.
            size: Of the earlier state, entries.
            later_size: Of the later one; 0: the newest.

        Raises:
            UnknownEntryError: There is no such log, or it was never so long.
        """
        newest = self.latest(database, origin)
        later_size = later_size or newest.size
        if not 0 < size <= later_size <= newest.size:
            raise UnknownEntryError(
                f"the log {newest.origin} has {newest.size} entries and was never "
                f"{size} long, and later {later_size}"
            )
        terms = merkle.consistency_terms(size, later_size)
        return Proof(tuple(_resolved(database, newest.number, terms)), newest)

    def keys(self, database: Connection) -> list[VerifyingKey]:
        """Returns all keys that ever signed the log, the first one first."""
        rows = database.scalars(
            select(tables.leaves.c.leaf)
            .where(tables.leaves.c.site == "")
            .order_by(tables.leaves.c.number, tables.leaves.c.place)
        )
        entries = (decode(leaf).entry for leaf in rows)
        found = [each.key for each in entries if isinstance(each, OpenEntry | KeyEntry)]
        return [VerifyingKey.parse(key) for key in dict.fromkeys(found)]

    def receipts(
        self, database: Connection, site: str, request_id: bytes
    ) -> list[Receipt]:
        """Returns the receipts of a site's query: one for each time it was sent."""
        found = _of_site(site).where(tables.leaves.c.request_id == request_id)
        return self._receipts_of(database, found)

    def receipts_from(
        self, database: Connection, site: str, origin: str, place: int
    ) -> list[Receipt]:
        """Returns receipts of a site in one log, in order.

        Args:
            database: In a transaction.
            site: Whose.
            origin: Of the log; empty: the open one.
            place: Of the first entry that may be among them.

        Raises:
            UnknownEntryError: There is no such log.
        """
        newest = self.latest(database, origin)
        found = _of_site(site).where(
            tables.leaves.c.number == newest.number, tables.leaves.c.place >= place
        )
        return self._receipts_of(database, found)

    def _receipts_of(self, database: Connection, found: Select[Any]) -> list[Receipt]:
        rows = list(database.execute(found.limit(MOST_RECEIPTS)))
        newest = self.latest(database)
        by_log: dict[int, list[Row[Any]]] = {}
        for row in rows:
            by_log.setdefault(row.number, []).append(row)
        receipts: list[Receipt] = []
        for number, part in by_log.items():
            origin = _renumbered(newest.origin, number)
            receipts += self._receipts(database, part, self.latest(database, origin))
        return receipts

    def _receipts(
        self, database: Connection, rows: list[Row[Any]], newest: Checkpoint
    ) -> list[Receipt]:
        terms = [merkle.inclusion_terms(row.place, newest.size) for row in rows]
        wanted = {node for proof in terms for term in proof for node in term}
        nodes = tables.read_nodes(database, newest.number, wanted)
        return [
            Receipt(
                row.leaf,
                row.salt,
                row.place,
                tuple(merkle.resolve(proof, nodes.__getitem__)),
                newest,
            )
            for row, proof in zip(rows, terms, strict=True)
        ]

    def _check_key(self, head: Head) -> None:
        if head.key != str(self.key.public):
            raise AuditError(
                f"the log {head.origin} is signed by {head.key}, and this is "
                f"{self.key.public}: rotate the key with `moma-server audit rotate-key`"
            )

    def _appender(self, database: Connection, head: Head) -> LogAppender:
        self._check_key(head)
        now_ms = int(self._clock().timestamp() * 1000)
        return LogAppender(database, head, self.key, now_ms)


def _of_site(site: str) -> Select[Any]:
    return (
        select(tables.leaves)
        .where(tables.leaves.c.site == site)
        .order_by(tables.leaves.c.number, tables.leaves.c.place)
    )


def _resolved(database: Connection, number: int, terms: list[Term]) -> list[bytes]:
    wanted: set[MerkleNode] = {node for term in terms for node in term}
    nodes = tables.read_nodes(database, number, wanted)
    return merkle.resolve(terms, nodes.__getitem__)


def _renumbered(origin: str, number: int) -> str:
    return f"{origin.rpartition('/')[0]}/{number}"
