"""Charges that a dead gateway left are entries of the log as well, once they are old.

A gateway that is killed between charge and entry leaves the budget ahead of the log. A
site that asks again settles that. For one that does not, whoever serves later writes
the query down as abandoned, and the charge stands: whether the model worked, nobody
knows. Where it is settled after all, by a slow gateway or a repetition, that costs
nothing more.
"""

import logging

from moma_core.audit.entry import QueryEntry
from moma_core.audit.ledger import Ledger, LedgerTx, Operation
from moma_core.policy.budget import Charge

_logger = logging.getLogger(__name__)

MOST_TOGETHER = 256
"""In one transaction, for which the others wait."""


def reap_abandoned(
    ledger: Ledger, teacher_digest: str, after_seconds: float
) -> Operation[int]:
    """Returns what writes off the oldest charges that nobody settled.

    Args:
        ledger: That are written to.
        teacher_digest: SHA-256 of the weights, hex, as entries name it.
        after_seconds: Since the reservation; longer than an answer takes.

    Returns:
        An operation that returns how many it wrote off, at most MOST_TOGETHER.
    """
    accounts = ledger.budget.rules

    def reaped(tx: LedgerTx) -> int:
        left = accounts.abandoned(tx.database, tx.now - after_seconds, MOST_TOGETHER)
        for charge in left:
            cost = accounts.settle(tx.database, charge, tx.now)
            tx.log.add_query(
                _entry(charge, teacher_digest, cost), charge.request.digest
            )
        if left:
            _logger.warning(
                "%d queries were charged and never answered: %d patches stay charged, "
                "and the log names them as abandoned",
                len(left),
                sum(charge.patches for charge in left),
            )
        return len(left)

    return reaped


def _entry(charge: Charge, teacher_digest: str, cost: int) -> QueryEntry:
    return QueryEntry(
        site=charge.site,
        teacher=teacher_digest,
        request=charge.request.request_id.hex(),
        patches=charge.patches,
        charged=cost,
        outputs="",
        outcome="abandoned",
    )
