"""The teacher's ledger: budget and log of one database, written in one transaction.

Operations that wait are done together, because a commit costs a write to the disk and,
where it adds entries, a signature, however many took part. Each has a savepoint of its
own, so that one that is refused leaves the others alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import Connection

from moma_core.audit.append import LogAppender
from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.log import AuditLog
from moma_core.audit.tables import Total, TotalKey, read_totals
from moma_core.errors import RefusedError, TeacherBusyError
from moma_core.policy.budget import BudgetStore
from moma_core.runtime.database import reading

T = TypeVar("T")

Refusal = RefusedError | TeacherBusyError


@dataclass(frozen=True, slots=True)
class LedgerTx:
    """The ledger while it is written to.

    Args:
        database: In a transaction that no other writer shares.
        log: Where entries are added.
        now: Seconds since 1970, UTC, by the ledger's clock.
    """

    database: Connection
    log: LogAppender
    now: float


@dataclass(frozen=True, slots=True)
class Committed(Generic[T]):
    """What a transaction has left on the disk.

    Args:
        done: What each operation returned, or why it was refused.
        checkpoint: The log after it.
        totals: Those that it changed.
        mismatches: Receipts that were found to contradict the log, ever.
    """

    done: list[T | Refusal]
    checkpoint: Checkpoint
    totals: Mapping[TotalKey, Total]
    mismatches: int


Operation = Callable[[LedgerTx], T]
"""Does something in the transaction; a refusal undoes all of it."""


class Ledger:
    """Budget and log; safe between threads and processes.

    Args:
        budget: What sites are charged.
        log: In the same database; opened here.

    Raises:
        AuditError: The log in this database is another's.
    """

    def __init__(self, budget: BudgetStore, log: AuditLog) -> None:
        self.budget = budget
        self.log = log
        log.open(budget.engine)

    def write_all(self, operations: Sequence[Operation[T]]) -> Committed[T]:
        """Does operations in one transaction, which is on the disk when this returns.

        An operation adds to the log last, when nothing can refuse it any more.
        """
        with self.budget.engine.begin() as database:
            tx = LedgerTx(database, self.log.begin(database), self.budget.now())
            done = [_attempted(operation, tx) for operation in operations]
            checkpoint = tx.log.finish_if_grown()
        head = tx.log.head
        return Committed(done, checkpoint, tx.log.totals, head.mismatches)

    def sign_anew(self) -> Committed[None]:
        """Signs the log as it stands, with the time, and returns all totals."""
        with self.budget.engine.begin() as database:
            appender = self.log.begin(database)
            checkpoint = appender.finish()
            totals = read_totals(database)
        return Committed([], checkpoint, totals, appender.head.mismatches)

    def read(self, query: Callable[[Connection], T]) -> T:
        """Reads the database in a transaction that holds back no writer."""
        with reading(self.budget.engine).begin() as database:
            return query(database)

    def alter(self, change: Callable[[Connection], T]) -> T:
        """Changes the database in a transaction of its own."""
        with self.budget.engine.begin() as database:
            return change(database)


def _attempted(operation: Operation[T], tx: LedgerTx) -> T | Refusal:
    try:
        with tx.database.begin_nested():
            return operation(tx)
    except (RefusedError, TeacherBusyError) as refusal:
        return refusal
