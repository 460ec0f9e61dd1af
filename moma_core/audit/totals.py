"""What the log adds up to, kept beside it in the same transactions.

A counter that starts anew, or that several gateways show, is set from here without
reading the log again. `audit verify` adds the log itself up.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Connection, String, Table, select, update

from moma_core.audit.entry import QueryEntry
from moma_core.audit.tables import tables
from moma_core.runtime.database import insert_if_new

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
