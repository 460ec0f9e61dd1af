from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection

from moma_core.audit.ledger import Ledger
from moma_core.audit.receipt import Receipt
from moma_core.audit.reconcile import Reconciled, count_mismatches, reconcile
from moma_core.audit.rotation import rotate_key, rotate_log
from moma_core.audit.tables import read_head
from moma_core.end_to_end.signatures import SigningKey
from moma_core.policy.budget_tables import add_to_account
from tests.support.teacher.audit_log import CONTENT, KEY, ask, ledger_in, query
from tests.support.teacher.charges import reserve_in


def compared(ledger: Ledger, receipts: list[Receipt]) -> Reconciled:
    def compare(database: Connection) -> Reconciled:
        keys = ledger.log.keys(database)
        return reconcile(database, ledger, receipts, keys)

    found = ledger.read(compare)
    ledger.alter(lambda database: count_mismatches(database, found))
    return found


def mismatches(ledger: Ledger) -> int:
    head = ledger.read(read_head)
    assert head is not None
    return head.mismatches


def test_honest_receipts_agree_with_the_log_over_rotations(tmp_path: Path) -> None:
    new = SigningKey.create()
    with ledger_in(tmp_path) as ledger:
        receipts = ask(ledger, query(1), query(2, "site-b"), query(3))
        ledger.alter(lambda database: rotate_log(database, ledger.log))
        receipts += ask(ledger, query(4))
        ledger.alter(lambda database: rotate_key(database, ledger.log, new))
    with ledger_in(tmp_path, new) as ledger:
        receipts += ask(ledger, query(5))

        found = compared(ledger, [each for each in receipts if b"site-a" in each.leaf])

        assert found == Reconciled(receipts=4, entries=4, sites=("site-a",))
        assert mismatches(ledger) == 0


def test_a_receipt_that_the_log_contradicts_is_named_and_counted(
    tmp_path: Path,
) -> None:
    with ledger_in(tmp_path) as ledger:
        receipts = ask(ledger, query(1)) + ask(ledger, query(2))
        with ledger.budget.engine.begin() as database:
            database.exec_driver_sql(
                "UPDATE audit_leaves SET leaf = 'x' WHERE place = 2"
            )

        found = compared(ledger, receipts)

        assert found.mismatches == 1
        assert found.first == "receipt 2: entry 2 of the log says something else"
        assert mismatches(ledger) == 1


def test_a_log_that_was_rewritten_after_a_receipt_is_found(tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    with ledger_in(tmp_path / "shown") as ledger:
        ask(ledger, query(1))
        receipts = ask(ledger, query(2))
    with ledger_in(tmp_path) as ledger:
        ask(ledger, query(1), query(2), query(3))

        found = compared(ledger, receipts)

        assert found.mismatches == 1
        assert found.first == "receipt 1: entry 2 of the log says something else"


def test_a_log_that_was_cut_after_a_receipt_is_found(tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    with ledger_in(tmp_path / "shown") as ledger:
        receipts = ask(ledger, *map(query, range(1, 6)))
    with ledger_in(tmp_path) as ledger:
        ask(ledger, query(1))

        found = compared(ledger, receipts[:1])

        assert found.first == (
            "receipt 1: the log moma/teacher-a/1 was signed at 6 entries and is "
            "shorter now"
        )


def test_a_forged_receipt_is_not_believed(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        (receipt,) = ask(ledger, query(1))
        forged = replace(receipt, leaf=receipt.leaf.replace(b"site-a", b"site-b"))
        stranger = SigningKey.create()
        (tmp_path / "other").mkdir()
        with ledger_in(tmp_path / "other", stranger) as others:
            (foreign,) = ask(others, query(1))

        found = compared(ledger, [forged, foreign])

        assert (found.forged, found.mismatches) == (2, 0)
        assert "is not in the log that its receipt's checkpoint" in found.first
        again = compared(ledger, [foreign])
        assert again.first == f"receipt 1: {stranger.public} never signed this log"
        assert mismatches(ledger) == 0  # who shows forged ones accuses nobody


def test_an_entry_without_a_receipt_is_a_difference(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        receipts = ask(ledger, query(1), query(2))

        found = compared(ledger, receipts[:1])

        assert found.mismatches == 0
        assert found.first == (
            "the log has 1 entry of site-a for which there is no receipt"
        )


def test_a_denial_needs_no_receipt_to_agree(tmp_path: Path) -> None:
    denied = query(2, charged=0).model_copy(
        update={"outcome": "denied", "reason": "rate", "outputs": ""}
    )
    with ledger_in(tmp_path) as ledger:
        given, of_denial = ask(ledger, query(1), denied)

        for receipts in ([given], [given, of_denial]):
            found = compared(ledger, receipts)
            assert (found.first, found.entries) == ("", 1)


def test_a_receipt_is_read_as_it_was_written(tmp_path: Path) -> None:
    with ledger_in(tmp_path, KEY) as ledger:
        (receipt,) = ask(ledger, query(1))

    assert Receipt.parse(receipt.to_json()) == receipt


def test_what_is_charged_and_has_no_entry_yet_is_told_and_no_difference(
    tmp_path: Path,
) -> None:
    with ledger_in(tmp_path) as ledger:
        receipts = ask(ledger, query(1), query(2))
        for number in (3, 4):
            reserve_in(
                ledger.budget, "site-a", bytes([number]) * 16, digest=CONTENT, patches=5
            )

        found = compared(ledger, receipts)

        assert (found.first, found.reserved, found.reserved_patches) == ("", 2, 10)


def test_a_budget_that_says_something_else_than_the_log_is_named(
    tmp_path: Path,
) -> None:
    with ledger_in(tmp_path) as ledger:
        receipts = ask(ledger, query(1), query(2))
        with ledger.budget.engine.begin() as database:
            database.execute(add_to_account("site-a", 3))

        found = compared(ledger, receipts)

        assert found.mismatches == 0
        assert found.first == (
            "the budget says that site-a is charged 7 patches, and its entries say 4, "
            "with 0 more reserved"
        )
