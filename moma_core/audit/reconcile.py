"""Compares sites' receipts with log and budget, and names the first difference."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, select, update

from moma_core.audit import merkle, tables
from moma_core.audit.entry import QueryEntry
from moma_core.audit.ledger import Ledger
from moma_core.audit.log import AuditLog
from moma_core.audit.receipt import Receipt, check_receipt
from moma_core.audit.tables import read_totals
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import AuditError
from moma_core.policy.budget import Budget
from moma_core.runtime.cli import counted


@dataclass(slots=True)
class Reconciled:
    """What was found.

    Args:
        receipts: Number of receipts that were compared with the log.
        entries: Of the sites that the receipts are of, in the log, without rejected
            queries: for these there is a receipt only on request.
        mismatches: Signed receipts that the log contradicts.
        forged: Receipts that the log's operator never signed.
        first: The first difference, as a sentence; empty: there is none.
        sites: Whose receipts they were.
        reserved: Queries of these sites that are charged and have no entry yet.
        reserved_patches: That they are charged.
    """

    receipts: int = 0
    entries: int = 0
    mismatches: int = 0
    forged: int = 0
    first: str = ""
    sites: tuple[str, ...] = ()
    reserved: int = 0
    reserved_patches: int = 0

    def to_json(self) -> dict[str, object]:
        """Returns it for a script."""
        return asdict(self)


def reconcile(
    database: Connection,
    ledger: Ledger,
    receipts: Iterable[Receipt],
    keys: Iterable[VerifyingKey],
) -> Reconciled:
    """Compares receipts with the log, and the log with what the sites are charged.

    Args:
        database: In a transaction.
        ledger: The log operator's.
        receipts: One site's, or several sites'.
        keys: Those that signed the log, by fingerprint.
    """
    log, budget = ledger.log, ledger.budget.rules
    found = Reconciled()
    signers = {str(key): key for key in keys}
    seen: set[tuple[str, int]] = set()
    sites: set[str] = set()
    for receipt in receipts:
        found.receipts += 1
        try:
            entry = _signed_entry(receipt, signers)
        except AuditError as error:
            found.forged += 1
            found.first = found.first or f"receipt {found.receipts}: {error}"
            continue
        sites.add(entry.site)
        try:
            _check(database, log, receipt)
        except AuditError as error:
            found.mismatches += 1
            found.first = found.first or f"receipt {found.receipts}: {error}"
            continue
        if entry.outcome != "denied":
            seen.add((receipt.checkpoint.origin, receipt.place))
    found.sites = tuple(sorted(sites))
    _compare_count(database, found, len(seen))
    _compare_budget(database, budget, found)
    return found


def count_mismatches(database: Connection, found: Reconciled) -> None:
    """Counts what the log contradicts, for whoever monitors its operator."""
    more = tables.head.c.mismatches + found.mismatches
    database.execute(update(tables.head).values(mismatches=more))


def _signed_entry(receipt: Receipt, signers: dict[str, VerifyingKey]) -> QueryEntry:
    signer = signers.get(receipt.checkpoint.key)
    if signer is None:
        raise AuditError(f"{receipt.checkpoint.key} never signed this log")
    entry = check_receipt(receipt, signer).entry
    if not isinstance(entry, QueryEntry):
        raise AuditError(f"entry {receipt.place} is about no query")
    return entry


def _check(database: Connection, log: AuditLog, receipt: Receipt) -> None:
    checkpoint = receipt.checkpoint
    number = checkpoint.number
    if log.latest(database, checkpoint.origin).size < checkpoint.size:
        raise AuditError(
            f"the log {checkpoint.origin} was signed at {checkpoint.size} entries "
            "and is shorter now"
        )
    leaf = database.scalar(
        select(tables.leaves.c.leaf).where(
            tables.leaves.c.number == number, tables.leaves.c.place == receipt.place
        )
    )
    if leaf is None:
        raise AuditError(f"entry {receipt.place} of the log is missing")
    if leaf != receipt.leaf:
        raise AuditError(f"entry {receipt.place} of the log says something else")
    if _root_at(database, number, checkpoint.size).hex() != checkpoint.root:
        raise AuditError(
            f"the log's first {checkpoint.size} entries are not those that were signed"
        )


def _compare_count(database: Connection, found: Reconciled, seen: int) -> None:
    """Counts the entries of which a site should have a receipt."""
    found.entries = _entries_of(database, set(found.sites))
    if found.entries != seen and not found.first:
        lacking = counted(found.entries - seen, "entry", "entries")
        found.first = (
            f"the log has {lacking} of {', '.join(found.sites)} for which there is no "
            "receipt"
        )


def _compare_budget(database: Connection, budget: Budget, found: Reconciled) -> None:
    """Adds up what the sites are charged: all of it is in an entry, or reserved."""
    logged = Counter[str]()
    for key, total in read_totals(database).items():
        logged[key.site] += total.charged
    for site in found.sites:
        charged = budget.charged(database, site)
        reserved = budget.reserved(database, site)
        found.reserved += reserved.queries
        found.reserved_patches += reserved.patches
        if charged != logged[site] + reserved.patches and not found.first:
            found.first = (
                f"the budget says that {site} is charged {charged} patches, and its "
                f"entries say {logged[site]}, with {reserved.patches} more reserved"
            )


def _root_at(database: Connection, number: int, size: int) -> bytes:
    term = merkle.covering(size)
    try:
        nodes = tables.read_nodes(database, number, set(term))
    except KeyError as error:
        place = error.args[0]
        raise AuditError(f"entry {place} of the log is missing") from None
    return merkle.resolve([term], nodes.__getitem__)[0]


def _entries_of(database: Connection, sites: set[str]) -> int:
    return sum(
        total.queries
        for key, total in read_totals(database).items()
        if key.site in sites and key.outcome != "denied"
    )
