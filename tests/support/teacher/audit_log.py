"""A teacher's ledger with queries in them, and exports of their log to be spoilt."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.entry import QueryEntry
from moma_core.audit.export import export_log
from moma_core.audit.ledger import Ledger, LedgerTx, Operation, Refusal
from moma_core.audit.log import AuditLog
from moma_core.audit.receipt import Receipt
from moma_core.audit.verify import Verified, lines_of, verify_export
from moma_core.end_to_end.signatures import SigningKey
from moma_core.policy.budget import BudgetStore
from moma_core.policy.budget_tables import add_to_account, charged_and_locked

KEY = SigningKey.create()
CONTENT = sha256(b"pixels").digest()

T = TypeVar("T")


def written(ledger: Ledger, operation: Operation[T]) -> T:
    """Does one operation in a transaction of its own; raises what refused it."""
    (done,) = ledger.write_all([operation]).done
    if isinstance(done, Refusal):
        raise done
    return done


@contextmanager
def ledger_in(
    folder: Path,
    key: SigningKey = KEY,
    url: str | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Iterator[Ledger]:
    ledger = BudgetStore(
        url or f"sqlite:///{folder / 'budget.db'}",
        grants={},
        default_grant=10_000,
        clock=clock,
    )
    try:
        log = AuditLog("moma", "teacher-a", key, clock)
        yield Ledger(ledger, log)
    finally:
        ledger.close()


def query(number: int, site: str = "site-a", charged: int = 2) -> QueryEntry:
    return QueryEntry(
        site=site,
        teacher="0" * 64,
        request=f"{number:032x}",
        patches=2,
        charged=charged,
        outputs="embedding,logits",
        outcome="answered",
    )


def ask(ledger: Ledger, *entries: QueryEntry) -> list[Receipt]:
    """Charges and logs queries in one transaction."""

    def add(tx: LedgerTx) -> list[Receipt]:
        for entry in entries:
            charged_and_locked(tx.database, entry.site)
            tx.database.execute(add_to_account(entry.site, entry.charged))
        written = [tx.log.add_query(entry, CONTENT) for entry in entries]
        receipts.extend(each.receipt for each in written)
        return []

    receipts: list[Any] = []
    written(ledger, add)
    return [receipt() for receipt in receipts]


def exported(ledger: Ledger, folder: Path) -> list[bytes]:
    """Returns the lines of an export."""
    path = folder / "log.jsonl"
    ledger.read(lambda database: export_log(database, path))
    return path.read_bytes().splitlines()


def verified(
    lines: list[bytes], key: SigningKey = KEY, known: tuple[Checkpoint, ...] = ()
) -> Verified:
    file = io.BytesIO(b"".join(line + b"\n" for line in lines))
    return verify_export(lines_of(file), key.public, known)


def edited(line: bytes, **fields: object) -> bytes:
    """Returns an entry's line that says something else."""
    leaf = json.loads(line)
    leaf["entry"] |= fields
    return json.dumps(leaf, sort_keys=True, separators=(",", ":")).encode()
