"""Denials are all in the log, and do not make it grow without end."""

import itertools
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from moma_core.audit.denied_queries import MOST_ENTRIES, add_held, add_rejected_query
from moma_core.audit.entry import QueryEntry, decode
from moma_core.audit.ledger import Ledger, LedgerTx
from moma_core.audit.reconcile import reconcile
from moma_core.audit.tables import TotalKey, read_totals
from moma_core.errors import AuditError
from tests.support.machine.clock import Clock
from tests.support.teacher.audit_log import (
    CONTENT,
    KEY,
    ask,
    exported,
    ledger_in,
    query,
    verified,
    written,
)

MINUTE = timedelta(minutes=1)
NUMBERS = itertools.count()  # no request id comes twice


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    with ledger_in(tmp_path, clock=clock) as ledger:
        yield ledger


def _denied(number: int, site: str = "site-a", reason: str = "budget") -> QueryEntry:
    denial = {"charged": 0, "outputs": "", "outcome": "denied", "reason": reason}
    return query(number, site).model_copy(update=denial)


def _deny(
    ledger: Ledger, times: int, site: str = "site-a", reason: str = "budget"
) -> None:
    for _ in range(times):
        entry = _denied(next(NUMBERS), site, reason)
        written(
            ledger, lambda tx, entry=entry: add_rejected_query(tx.log, entry, CONTENT)
        )


def _look(ledger: Ledger, *, all_minutes: bool = False) -> None:
    written(ledger, lambda tx: add_held(tx.log, all_minutes=all_minutes))


def _entries(ledger: Ledger, folder: Path) -> list[QueryEntry]:
    lines = [line for line in exported(ledger, folder) if b'"sequence"' in line]
    entries = [decode(line).entry for line in lines]
    return [entry for entry in entries if isinstance(entry, QueryEntry)]


def _total(ledger: Ledger, site: str = "site-a", reason: str = "budget") -> int:
    key = TotalKey(site, "denied", reason)
    return ledger.read(read_totals)[key].queries


def test_the_first_of_a_minute_are_entries_and_the_rest_is_one(
    ledger: Ledger, tmp_path: Path, clock: Clock
) -> None:
    _deny(ledger, MOST_ENTRIES + 7)
    _look(ledger)
    assert len(_entries(ledger, tmp_path)) == _total(ledger) == MOST_ENTRIES

    clock.now += MINUTE
    _look(ledger)
    _look(ledger)

    *single, rest = _entries(ledger, tmp_path)
    assert [entry.queries for entry in single] == [1] * MOST_ENTRIES
    assert (rest.queries, rest.patches, rest.request) == (7, 14, "")
    assert _total(ledger) == MOST_ENTRIES + 7
    assert verified(exported(ledger, tmp_path)).sites["site-a"].denied == {
        "budget": MOST_ENTRIES + 7
    }


def test_a_flood_is_a_few_entries_a_minute(
    ledger: Ledger, tmp_path: Path, clock: Clock
) -> None:
    for _ in range(4):
        _deny(ledger, 50)
        clock.now += MINUTE
    _look(ledger)

    assert len(_entries(ledger, tmp_path)) == 4 * (MOST_ENTRIES + 1)
    assert _total(ledger) == 200


@pytest.mark.parametrize("reason", ["budget", "replay"])
def test_a_query_that_has_an_entry_gets_none_for_a_denial(
    ledger: Ledger, tmp_path: Path, reason: str
) -> None:
    ask(ledger, query(1))
    again, new = _denied(1, reason=reason), _denied(2)

    def deny(tx: LedgerTx) -> list[bool]:
        entries = (again, new, new, again)
        return [add_rejected_query(tx.log, entry, CONTENT) for entry in entries]

    assert written(ledger, deny) == [False, True, False, False]
    assert written(ledger, deny) == [False] * 4
    assert len(_entries(ledger, tmp_path)) == 2
    assert written(
        ledger, lambda tx: add_rejected_query(tx.log, _denied(1, "site-b"), CONTENT)
    )


def test_a_crash_loses_no_denial(tmp_path: Path, clock: Clock) -> None:
    with ledger_in(tmp_path, clock=clock) as before:
        _deny(before, MOST_ENTRIES + 3)
    clock.now += MINUTE

    with ledger_in(tmp_path, clock=clock) as ledger:
        _look(ledger)

        assert _total(ledger) == MOST_ENTRIES + 3


def test_a_stop_leaves_nothing_open(ledger: Ledger) -> None:
    _deny(ledger, MOST_ENTRIES + 3)

    _look(ledger, all_minutes=True)

    assert _total(ledger) == MOST_ENTRIES + 3


def test_sites_and_reasons_are_counted_each_by_itself(ledger: Ledger) -> None:
    for site in ("site-a", "site-b"):
        for reason in ("budget", "rate"):
            _deny(ledger, MOST_ENTRIES + 1, site, reason)

    _look(ledger, all_minutes=True)

    for site in ("site-a", "site-b"):
        for reason in ("budget", "rate"):
            assert _total(ledger, site, reason) == MOST_ENTRIES + 1


def test_a_site_can_reconcile_its_summed_denials(ledger: Ledger) -> None:
    ask(ledger, query(99))
    _deny(ledger, MOST_ENTRIES + 5)
    _look(ledger, all_minutes=True)

    receipts = ledger.read(lambda d: ledger.log.receipts_from(d, "site-a", "", 0))
    found = ledger.read(lambda d: reconcile(d, ledger, receipts, [KEY.public]))

    assert (found.first, found.receipts) == ("", MOST_ENTRIES + 2)


def test_an_entry_of_one_query_is_written_as_before_and_in_no_other_way(
    ledger: Ledger, tmp_path: Path
) -> None:
    ask(ledger, query(1))
    (leaf,) = (line for line in exported(ledger, tmp_path) if b'"query"' in line)

    values = json.loads(leaf)
    assert "queries" not in values["entry"]
    values["entry"]["queries"] = 1
    spelt = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(AuditError, match="not written in the one way"):
        decode(spelt)
