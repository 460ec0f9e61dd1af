from itertools import combinations
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy import update

from moma_core.audit import merkle
from moma_core.audit.checkpoint import Checkpoint
from moma_core.audit.ledger import Ledger, LedgerTx
from moma_core.audit.merkle import leaf_hash
from moma_core.audit.receipt import check_receipt
from moma_core.audit.rotation import rotate_log
from moma_core.audit.tables import head, read_head
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import AuditError, BudgetSpentError, UnknownEntryError
from tests.support.teacher.audit_log import (
    KEY,
    ask,
    exported,
    ledger_in,
    query,
    verified,
    written,
)


def latest(ledger: Ledger) -> Checkpoint:
    return ledger.read(lambda database: ledger.log.latest(database))


def test_a_new_log_has_one_entry_that_names_it(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        first = ledger.read(lambda database: ledger.log.inclusion(database, "", 0))

    entry = check_receipt(first, KEY.public).entry
    assert entry.kind == "open"
    assert entry.origin == "moma/teacher-a/1"
    assert entry.key == str(KEY.public)


def test_every_receipt_of_a_group_is_proven_by_its_checkpoint(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        for group in ([1], [2, 3, 4, 5, 6], [7, 8]):
            receipts = ask(ledger, *map(query, group))

            for number, receipt in zip(group, receipts, strict=True):
                placed = check_receipt(receipt, KEY.public)
                assert placed.sequence == number
                assert placed.entry.request == f"{number:032x}"


def test_a_receipt_fetched_later_is_about_the_same_entry(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        (first,) = ask(ledger, query(1))
        ask(ledger, *map(query, range(2, 20)))

        (again,) = ledger.read(
            lambda database: ledger.log.receipts(
                database, "site-a", bytes.fromhex(f"{1:032x}")
            )
        )

    check_receipt(again, KEY.public)
    assert (again.leaf, again.salt, again.place) == (
        first.leaf,
        first.salt,
        first.place,
    )
    assert again.checkpoint.size == 20


def test_a_site_gets_its_own_receipts_only(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ask(ledger, query(1), query(1, "site-b"), query(2))

        found = ledger.read(
            lambda database: ledger.log.receipts_from(database, "site-a", "", 0)
        )
        of_another = ledger.read(
            lambda database: ledger.log.receipts(
                database, "site-c", bytes.fromhex(f"{1:032x}")
            )
        )

    assert [receipt.place for receipt in found] == [1, 3]
    assert of_another == []


def test_an_entry_of_a_site_is_shown_to_nobody_else(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ask(ledger, query(1))

        with pytest.raises(UnknownEntryError, match="shows no entry 1 to all"):
            ledger.read(lambda database: ledger.log.inclusion(database, "", 1))


def test_every_earlier_state_is_shown_to_be_the_beginning(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        states = [latest(ledger)]
        for number in range(1, 12):
            ask(ledger, query(number))
            states.append(latest(ledger))

        for state in states:
            proof = ledger.read(
                lambda database, size=state.size: ledger.log.consistency(
                    database, "", size
                )
            )
            assert proof.checkpoint == states[-1]
            assert merkle.is_consistent(state.tree, proof.checkpoint.tree, proof.hashes)


def test_a_log_goes_on_where_it_was_over_a_restart(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ask(ledger, query(1), query(2))
    with ledger_in(tmp_path) as ledger:
        (receipt,) = ask(ledger, query(3))

    assert receipt.place == 3
    check_receipt(receipt, KEY.public)


def test_a_refused_operation_leaves_no_trace_and_the_others_alone(
    tmp_path: Path,
) -> None:
    def refused(tx: LedgerTx) -> NoReturn:
        tx.database.exec_driver_sql("INSERT INTO budget_accounts VALUES ('site-x', 5)")
        raise BudgetSpentError("no")

    with ledger_in(tmp_path) as ledger:
        committed = ledger.write_all(
            [
                lambda tx: tx.log.add_query(query(1), bytes(32)).place,
                refused,
                lambda tx: tx.log.add_query(query(2), bytes(32)).place,
            ]
        )
        charged = ledger.budget.charged("site-x")

    first, refusal, second = committed.done
    assert (first, second) == (1, 2)
    assert isinstance(refusal, BudgetSpentError)
    assert charged == 0
    assert committed.checkpoint.size == 3


def test_a_transaction_that_fails_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    def broken(tx: LedgerTx) -> NoReturn:
        tx.log.add_query(query(2), bytes(32))
        raise RuntimeError("the disk is gone")

    with ledger_in(tmp_path) as ledger:
        ask(ledger, query(1))
        before = latest(ledger)

        with pytest.raises(RuntimeError):
            written(ledger, broken)

        assert latest(ledger) == before
        (receipt,) = ask(ledger, query(3))
        assert receipt.place == 2


def test_another_key_cannot_go_on_with_a_log(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ask(ledger, query(1))

    with (
        pytest.raises(AuditError, match="rotate the key"),
        ledger_in(tmp_path, SigningKey.create()),
    ):
        pass


def test_a_clock_that_is_set_back_does_not_turn_the_log_back(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ask(ledger, query(1))
        ahead = latest(ledger).time_ms + 10_000
        with ledger.budget.engine.begin() as database:
            database.execute(update(head).values(time_ms=ahead))

        (receipt,) = ask(ledger, query(2))

    assert check_receipt(receipt, KEY.public).time_ms == ahead


def test_a_log_that_is_dated_far_ahead_goes_on_in_another_one(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ask(ledger, query(1))
        with ledger.budget.engine.begin() as database:
            ahead = latest(ledger).time_ms + 10 * 60_000
            database.execute(update(head).values(time_ms=ahead))
        with pytest.raises(AuditError, match="still to come: put the clock right"):
            ask(ledger, query(2))

        ledger.alter(lambda database: rotate_log(database, ledger.log))
        (receipt,) = ask(ledger, query(2))

        assert receipt.checkpoint.time_ms < ahead
        assert verified(exported(ledger, tmp_path)).entries == 5


def test_the_head_names_the_last_leaf(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        (receipt,) = ask(ledger, query(1))
        found = ledger.read(read_head)

    assert found is not None
    assert found.previous == leaf_hash(receipt.leaf).hex()


def test_any_two_states_are_shown_to_be_of_one_log(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        states = [latest(ledger)]
        for number in range(1, 6):
            ask(ledger, query(number))
            states.append(latest(ledger))

        for earlier, later in combinations(states, 2):
            proof = ledger.read(
                lambda database, sizes=(earlier.size, later.size): (
                    ledger.log.consistency(database, "", *sizes)
                )
            )

            assert merkle.is_consistent(earlier.tree, later.tree, proof.hashes)
        with pytest.raises(UnknownEntryError, match="2 long, and later 7"):
            ledger.read(lambda database: ledger.log.consistency(database, "", 2, 7))


def test_a_state_that_never_was_has_no_proof(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        for size in (0, 2):
            with pytest.raises(UnknownEntryError, match=f"was never {size} long"):
                ledger.read(
                    lambda database, size=size: ledger.log.consistency(
                        database, "", size
                    )
                )
        with pytest.raises(UnknownEntryError, match="no log 'moma/teacher-b/1'"):
            ledger.read(
                lambda database: ledger.log.latest(database, "moma/teacher-b/1")
            )
