"""A gateway of its own process, which asks until its site's budget is gone.

python -m tests.support.teacher.racing_gateway URL TRIES
"""

import hashlib
import os
import sys
from datetime import UTC, datetime

from moma_core.audit.entry import QueryEntry
from moma_core.audit.ledger import Ledger, LedgerTx
from moma_core.audit.log import AuditLog
from moma_core.errors import BudgetSpentError
from moma_core.policy.budget import BudgetStore, Charge
from moma_core.policy.budget_tables import ReservationRequest
from moma_core.policy.policy import PolicyEnforcer, TeacherPolicy
from moma_core.policy.usage import PatchRate
from tests.support.teacher.audit_log import written
from tests.support.teacher.sealed import TEACHER, key_of

GRANT = 100
RULES = PolicyEnforcer(TeacherPolicy(rate=PatchRate(1e6, 10_000)))


def _now() -> datetime:
    return datetime.now(UTC)


def ledger_at(url: str) -> Ledger:
    ledger = BudgetStore(url, grants={"site-a": GRANT}, default_grant=0, clock=_now)
    return Ledger(ledger, AuditLog("moma", TEACHER, key_of(TEACHER), _now))


def ask(ledger: Ledger) -> bool:
    """Charges one patch and logs it; says whether the budget covered it."""
    request_id = os.urandom(16)
    digest = hashlib.sha256(request_id).digest()
    asked = ReservationRequest("site-a", request_id, digest, digest, 1)

    def reserved(tx: LedgerTx) -> Charge:
        charge = ledger.budget.rules.reserve(tx.database, asked, tx.now)
        RULES.authorize(tx.database, "site-a", [digest], tx.now)
        return charge

    try:
        charge = written(ledger, reserved)
    except BudgetSpentError:
        return False

    def settled(tx: LedgerTx) -> None:
        cost = ledger.budget.rules.settle(tx.database, charge, tx.now)
        entry = QueryEntry(
            site="site-a",
            teacher="ab" * 32,
            request=request_id.hex(),
            patches=1,
            charged=cost,
            outputs="logits",
            outcome="answered",
        )
        tx.log.add_query(entry, digest)

    written(ledger, settled)
    return True


def main() -> None:
    ledger = ledger_at(sys.argv[1])
    answered = sum(ask(ledger) for _ in range(int(sys.argv[2])))
    sys.stdout.write(f"{answered}\n")


if __name__ == "__main__":
    main()
