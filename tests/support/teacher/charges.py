"""Charges of a budget, each step in a transaction of its own."""

from moma_core.policy.budget import BudgetStore, Charge
from moma_core.policy.budget_tables import ReservationRequest


def reserve_in(
    store: BudgetStore,
    site: str,
    request_id: bytes,
    *,
    digest: bytes,
    patches: int,
    sealed_digest: bytes | None = None,
) -> Charge:
    sealed = digest if sealed_digest is None else sealed_digest
    request = ReservationRequest(site, request_id, digest, sealed, patches)
    with store.engine.begin() as database:
        return store.rules.reserve(database, request, store.now())


def settle_in(store: BudgetStore, charge: Charge) -> int:
    with store.engine.begin() as database:
        return store.rules.settle(database, charge, store.now())


def release_in(store: BudgetStore, charge: Charge) -> bool:
    with store.engine.begin() as database:
        return store.rules.release(database, charge)
