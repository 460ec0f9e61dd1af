import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from moma_core.errors import BudgetSpentError, ReplayError
from moma_core.policy.budget import REPETITION_WINDOW, BudgetStore, Charge
from tests.support.machine.clock import Clock


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'budget.db'}"


def ledger_in(
    folder: Path, *, grant: int = 100, clock: Clock | None = None
) -> BudgetStore:
    return BudgetStore(
        url_of(folder), grants={}, default_grant=grant, clock=clock or Clock()
    )


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[BudgetStore]:
    ledger = ledger_in(tmp_path, clock=clock)
    yield ledger
    ledger.close()


def request_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def digest(content: str = "pixels") -> bytes:
    return hashlib.sha256(content.encode()).digest()


def reserve(
    ledger: BudgetStore, number: int, patches: int = 10, content: str = "pixels"
) -> Charge:
    return ledger.reserve(
        "site-a", request_id(number), digest=digest(content), patches=patches
    )


def test_a_reservation_is_charged_at_once(ledger: BudgetStore) -> None:
    charge = reserve(ledger, 1, patches=30)

    assert not charge.repetition
    assert ledger.charged("site-a") == 30


def test_a_request_beyond_the_grant_is_refused_and_costs_nothing(
    ledger: BudgetStore,
) -> None:
    reserve(ledger, 1, patches=95)

    with pytest.raises(BudgetSpentError, match="takes 6 patches, 5 of 100 are left"):
        reserve(ledger, 2, patches=6)

    assert ledger.charged("site-a") == 95


def test_the_last_patch_of_a_grant_can_be_asked(ledger: BudgetStore) -> None:
    reserve(ledger, 1, patches=95)

    reserve(ledger, 2, patches=5)

    assert ledger.charged("site-a") == 100


def test_sites_have_accounts_of_their_own(ledger: BudgetStore) -> None:
    reserve(ledger, 1, patches=100)

    ledger.reserve("site-b", request_id(1), digest=digest(), patches=100)

    assert ledger.charged("site-b") == 100


def test_a_repetition_is_free_even_when_the_budget_is_spent(
    ledger: BudgetStore,
) -> None:
    ledger.settle(reserve(ledger, 1, patches=100))

    again = reserve(ledger, 1, patches=100)

    assert again.repetition
    assert ledger.charged("site-a") == 100


def test_the_same_id_with_other_bytes_is_refused(ledger: BudgetStore) -> None:
    reserve(ledger, 1)

    with pytest.raises(ReplayError, match="other bytes"):
        reserve(ledger, 1, content="other pixels")


def test_a_repetition_is_free_for_a_window_and_no_longer(
    ledger: BudgetStore, clock: Clock
) -> None:
    ledger.settle(reserve(ledger, 1))

    clock.now += REPETITION_WINDOW
    reserve(ledger, 1)
    clock.now += timedelta(seconds=1)

    with pytest.raises(ReplayError, match="too old"):
        reserve(ledger, 1)


def test_the_ninth_repetition_is_refused(ledger: BudgetStore) -> None:
    ledger.settle(reserve(ledger, 1))
    for _ in range(8):
        ledger.settle(reserve(ledger, 1))

    with pytest.raises(ReplayError, match="repeated 8 times"):
        reserve(ledger, 1)


def test_a_repetition_that_did_no_work_does_not_count_as_one(
    ledger: BudgetStore,
) -> None:
    ledger.settle(reserve(ledger, 1))

    for _ in range(20):
        ledger.release(reserve(ledger, 1))

    assert reserve(ledger, 1).repetition


def test_repetitions_are_remembered_over_a_restart(
    tmp_path: Path, clock: Clock
) -> None:
    before = ledger_in(tmp_path, clock=clock)
    before.settle(reserve(before, 1, patches=60))
    before.close()

    after = ledger_in(tmp_path, clock=clock)
    again = reserve(after, 1, patches=60)

    assert again.repetition
    assert after.charged("site-a") == 60
    after.close()


def test_a_crash_leaves_the_charge_and_a_free_repetition(
    tmp_path: Path, clock: Clock
) -> None:
    crashed = ledger_in(tmp_path, clock=clock)
    reserve(crashed, 1, patches=60)
    crashed.close()

    after = ledger_in(tmp_path, clock=clock)

    assert after.charged("site-a") == 60
    assert reserve(after, 1, patches=60).repetition
    after.close()


def test_a_released_charge_is_given_back_and_forgotten(ledger: BudgetStore) -> None:
    given_back = ledger.release(reserve(ledger, 1))

    assert given_back
    assert ledger.charged("site-a") == 0
    assert not reserve(ledger, 1, content="other pixels").repetition


def test_a_charge_that_was_repeated_meanwhile_is_not_given_back(
    ledger: BudgetStore,
) -> None:
    first = reserve(ledger, 1)
    reserve(ledger, 1)  # the model may be at work for this one

    given_back = ledger.release(first)

    assert not given_back
    assert ledger.charged("site-a") == 10


def test_a_settled_charge_is_never_given_back(ledger: BudgetStore) -> None:
    charge = reserve(ledger, 1)
    ledger.settle(charge)

    assert not ledger.release(charge)
    assert ledger.charged("site-a") == 10


def test_a_smaller_grant_after_a_restart_refuses_what_is_new(tmp_path: Path) -> None:
    generous = ledger_in(tmp_path, grant=100)
    reserve(generous, 1, patches=60)
    generous.close()

    strict = ledger_in(tmp_path, grant=50)

    with pytest.raises(BudgetSpentError, match="0 of 50 are left"):
        reserve(strict, 2)
    strict.close()


def test_every_site_that_was_granted_or_asked_is_known(tmp_path: Path) -> None:
    ledger = BudgetStore(
        url_of(tmp_path), grants={"site-b": 7}, default_grant=100, clock=Clock()
    )
    reserve(ledger, 1)

    sites = ledger.sites()

    assert sites == ("site-a", "site-b")
    assert [ledger.granted(site) for site in sites] == [100, 7]
    assert ledger.charged("site-b") == 0
    ledger.close()


def test_a_negative_grant_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never negative"):
        ledger_in(tmp_path, grant=-1)


@pytest.mark.parametrize(("patches", "size"), [(0, 32), (1, 31)])
def test_a_charge_of_nothing_is_a_mistake(
    ledger: BudgetStore, patches: int, size: int
) -> None:
    with pytest.raises(ValueError, match="no charge"):
        ledger.reserve("site-a", request_id(1), digest=b"x" * size, patches=patches)
