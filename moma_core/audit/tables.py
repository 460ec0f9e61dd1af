"""The log's tables, in the same database as the budget.

The head is one row. Whoever writes locks it first, and whoever has it locked is alone:
several gateways on one database append one after the other, without gaps or forks, and
since nothing else is locked before it, they never wait for each other in a circle.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    Text,
    select,
    update,
)

from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.entry import QueryEntry
from moma_core.audit.merkle import HASH_BYTES, MerkleNode
from moma_core.runtime.database import insert_if_new

HEAD = 1
"""The key of the one row of `head`."""

tables = MetaData()

head = Table(
    "audit_head",
    tables,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, nullable=False),  # of the open log, from 1
    Column("origin", String(200), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("peaks", LargeBinary, nullable=False),  # the frontier's
    Column("previous", String(64), nullable=False),  # hash of the last leaf, hex
    Column("time_ms", BigInteger, nullable=False),
    Column("key", String(80), nullable=False),  # fingerprint of who signs
    Column("checkpoint", Text, nullable=False),  # newest, JSON; empty at the start
    Column("mismatches", BigInteger, nullable=False),  # receipts that it contradicts
)

leaves = Table(
    "audit_leaves",
    tables,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
    # hashes of the nodes that this leaf makes full, by level, its own first
    Column("nodes", LargeBinary, nullable=False),
    Column("salt", LargeBinary(16), nullable=False),  # empty where nothing is hidden
    Column("site", String(63), nullable=False),  # empty for what is no query
    Column("request_id", LargeBinary(16), nullable=False),
)

Index("audit_leaves_by_request", leaves.c.site, leaves.c.request_id)

Index("audit_leaves_by_site", leaves.c.site, leaves.c.number, leaves.c.place)

checkpoints = Table(
    "audit_checkpoints",  # of every log its last one, and some on the way
    tables,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("origin", String(200), nullable=False, index=True),
    Column("checkpoint", Text, nullable=False),  # JSON
)

denials = Table(
    "audit_denials",  # the newest minute of each site and reason
    tables,
    Column("site", String(63), primary_key=True),
    Column("reason", String(32), primary_key=True),
    Column("teacher", String(64), nullable=False),
    Column("minute", BigInteger, nullable=False),  # since 1970, UTC
    Column("entries", Integer, nullable=False),
    Column(
        "held", BigInteger, nullable=False
    ),  # rejected queries that have no entry yet
    Column("held_patches", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Head:
    """The state of the open log.

    Args:
        number: Of the log, from 1.
        origin: Its name.
        size: Entries.
        peaks: The frontier's.
        previous: Hash of the last leaf, hex.
        time_ms: Of the last entry.
        key: Fingerprint of who signs.
        checkpoint: The newest one; None before the first entry.
        mismatches: Receipts that were found to contradict the log.
    """

    number: int
    origin: str
    size: int
    peaks: bytes
    previous: str
    time_ms: int
    key: str
    checkpoint: Checkpoint | None
    mismatches: int


def locked_head(database: Connection) -> Head | None:
    """Returns the head, locked until the transaction ends; None: there is no log."""
    row = database.execute(select(head).with_for_update()).one_or_none()
    return None if row is None else _head(row)


def read_head(database: Connection) -> Head | None:
    """Returns the head, unlocked; None: there is no log."""
    row = database.execute(select(head)).one_or_none()
    return None if row is None else _head(row)


def make_head(database: Connection, origin: str, key: str) -> Head:
    """Returns the head, locked, of a log that may be empty.

    Args:
        database: In a transaction.
        origin: Of a first log.
        key: Who signs it.
    """
    insert_if_new(
        database,
        head,
        id=HEAD,
        number=1,
        origin=origin,
        size=0,
        peaks=b"",
        previous="",
        time_ms=0,
        key=key,
        checkpoint="",
        mismatches=0,
    )
    return _head(database.execute(select(head).with_for_update()).one())


def read_nodes(
    database: Connection, number: int, nodes: set[MerkleNode]
) -> dict[MerkleNode, bytes]:
    """Returns the hashes of full nodes, one row a node.

    Raises:
        KeyError: The log is shorter.
    """
    last_leaves = {node: ((node.place + 1) << node.level) - 1 for node in nodes}
    rows = database.execute(
        select(leaves.c.place, leaves.c.nodes).where(
            leaves.c.number == number, leaves.c.place.in_(set(last_leaves.values()))
        )
    )
    found = {row.place: row.nodes for row in rows}
    return {
        node: found[place][node.level * HASH_BYTES :][:HASH_BYTES]
        for node, place in last_leaves.items()
    }


def _head(row: Row[Any]) -> Head:
    newest = Checkpoint.parse(row.checkpoint) if row.checkpoint else None
    values = {**row._asdict(), "checkpoint": newest}
    del values["id"]
    return Head(**values)


totals = Table(
    "audit_totals",
    tables,
    Column("site", String(63), primary_key=True),
    Column("outcome", String(32), primary_key=True),
    Column("reason", String(32), primary_key=True),
    Column("entries", BigInteger, nullable=False),  # queries that they stand for
    Column("charged", BigInteger, nullable=False),  # patches
)


class TotalKey(NamedTuple):
    """Which entries are added up."""

    site: str
    outcome: str
    reason: str


class Total(NamedTuple):
    """How many queries have entries, and what they charged.

    Args:
        queries: Of the log and of all before it.
        charged: Patches.
    """

    queries: int
    charged: int


class Tally:
    """Adds up the entries of one transaction."""

    def __init__(self) -> None:
        self._queries: Counter[TotalKey] = Counter()
        self._charged: Counter[TotalKey] = Counter()

    def add(self, entry: QueryEntry) -> None:
        """Counts an entry."""
        key = TotalKey(entry.site, entry.outcome, entry.reason)
        self._queries[key] += entry.queries
        self._charged[key] += entry.charged

    def write(self, database: Connection) -> dict[TotalKey, Total]:
        """Adds to the totals, and returns those that have changed."""
        changed = {}
        for key, queries in self._queries.items():
            insert_if_new(database, totals, **key._asdict(), entries=0, charged=0)
            charged = self._charged[key]
            row = database.execute(
                update(totals)
                .where(
                    totals.c.site == key.site,
                    totals.c.outcome == key.outcome,
                    totals.c.reason == key.reason,
                )
                .values(
                    entries=totals.c.entries + queries,
                    charged=totals.c.charged + charged,
                )
                .returning(totals.c.entries, totals.c.charged)
            ).one()
            changed[key] = Total(row.entries, row.charged)
        return changed


def read_totals(database: Connection) -> Mapping[TotalKey, Total]:
    """Returns all totals."""
    return {
        TotalKey(row.site, row.outcome, row.reason): Total(row.entries, row.charged)
        for row in database.execute(select(totals))
    }
