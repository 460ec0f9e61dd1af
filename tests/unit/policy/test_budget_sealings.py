"""The same request, told apart from the bytes in which it comes."""

from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest

from moma_core.errors import ReplayError
from moma_core.policy.budget import BudgetStore, Charge


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[BudgetStore]:
    ledger = BudgetStore(
        f"sqlite:///{tmp_path / 'budget.db'}",
        grants={},
        default_grant=100,
        clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
    )
    yield ledger
    ledger.close()


def digest(content: str) -> bytes:
    return sha256(content.encode()).digest()


def sealed(ledger: BudgetStore, text: str, content: str = "pixels") -> Charge:
    return ledger.reserve(
        "site-a",
        b"q" * 16,
        digest=digest(content),
        sealed_digest=digest(text),
        patches=10,
    )


def test_the_same_content_sealed_anew_belongs_to_the_same_charge(
    ledger: BudgetStore,
) -> None:
    ledger.settle(sealed(ledger, "before the restart"))

    again = sealed(ledger, "after the restart")

    assert again.repetition
    assert ledger.charged("site-a") == 10


def test_other_content_under_a_new_sealing_is_refused(ledger: BudgetStore) -> None:
    sealed(ledger, "first")

    with pytest.raises(ReplayError, match="other bytes"):
        sealed(ledger, "second", content="other pixels")


@pytest.mark.parametrize("times_each", [1, 2, 5])
def test_the_model_works_sixteen_times_more_for_one_charge_however_it_is_sealed(
    ledger: BudgetStore, times_each: int
) -> None:
    worked = 0

    def ask_on() -> None:
        nonlocal worked
        for number in count():
            for _ in range(times_each):
                ledger.settle(sealed(ledger, f"sealing {number}"))
                worked += 1

    with pytest.raises(ReplayError, match="the request was repeated 16 times"):
        ask_on()

    assert worked == 1 + 16
    assert ledger.charged("site-a") == 10


def test_replayed_bytes_use_up_no_repetition_of_a_restarted_site(
    ledger: BudgetStore,
) -> None:
    for _ in range(9):
        ledger.settle(sealed(ledger, "caught on the way"))
    with pytest.raises(ReplayError, match="the same bytes were repeated 8 times"):
        sealed(ledger, "caught on the way")

    again = sealed(ledger, "after the restart")

    assert again.repetition


def test_a_sealing_for_which_nothing_was_done_does_not_count(
    ledger: BudgetStore,
) -> None:
    ledger.settle(sealed(ledger, "first"))

    for number in range(20):
        ledger.release(sealed(ledger, f"sealing {number}"))

    assert sealed(ledger, "last").repetition


def test_a_charge_is_settled_for_its_patches_once(ledger: BudgetStore) -> None:
    charges = [sealed(ledger, "first"), sealed(ledger, "second")]

    settled = [ledger.settle(charge) for charge in charges]

    assert settled == [10, 0]
