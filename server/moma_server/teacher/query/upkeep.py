"""What is written into the ledger beside queries: changes of policy, abandoned charges.

A gateway that is killed between charge and entry leaves the budget ahead of the log. A
site that sends the query again settles that. For one that does not, whoever serves
later writes the query down as abandoned, and the charge stands: whether the model
worked, nobody knows. Where it is settled after all, by a slow gateway or a repetition,
that costs nothing more.
"""

import hashlib
import json
import logging
from collections.abc import Iterator

from moma_core.audit.entry import QueryEntry
from moma_core.audit.ledger import Ledger, LedgerTx, Operation
from moma_core.audit.rotation import add_policy
from moma_core.policy.budget import Charge
from moma_core.policy.policy import TeacherPolicy
from moma_core.policy.usage import record_if_changed
from moma_server.teacher.end_to_end.identity import TeacherIdentity
from moma_server.teacher.query.billing import BillingService

_logger = logging.getLogger(__name__)

POLICY = "policy"
"""The subject that is the same for all sites; the others name them."""

_LONGEST_CHANGE = 4096

_MOST_TOGETHER = 256  # abandoned in one transaction, for which the others wait


async def keep_ledger(
    billing: BillingService, changes: "PolicyChangeLog", reap: Operation[int]
) -> None:
    """Signs the log anew, with what changed and what was abandoned since.

    Args:
        billing: Writes to the ledger.
        changes: Notes policy, budgets and pinned sites.
        reap: Logs the abandoned charges, see `reap_abandoned`.
    """
    await billing.refresh()  # all counters, before one of them moves
    changes.noted(await billing.write(changes.write))
    while await billing.write(reap) == _MOST_TOGETHER:
        pass


class PolicyChangeLog:
    """Logs policy, budgets and pinned sites as signed entries when they change.

    Gateways of one database that are set differently each note what they allow when
    they start and when it changes, and do not answer each other.

    Args:
        identity: The teacher's signing key, and the sites that its owner approved.
        policy: The owner's policy.
        ledger: Ledger whose budgets are noted.
    """

    def __init__(
        self, identity: TeacherIdentity, policy: TeacherPolicy, ledger: Ledger
    ) -> None:
        self._identity, self._policy, self._ledger = identity, policy, ledger
        self._noted: dict[str, bytes] = {}

    def write(self, tx: LedgerTx) -> dict[str, bytes]:
        """Adds an entry for each subject that changed.

        Returns:
            Digest of each subject's terms, for `noted` once they are on the disk.
        """
        digests = {}
        for subject, terms in self._subjects():
            text = json.dumps(terms, sort_keys=True)
            digests[subject] = digest = hashlib.sha256(text.encode()).digest()
            is_known = self._noted.get(subject) == digest
            if not is_known and record_if_changed(tx.database, subject, digest):
                # what is too long for an entry is committed to
                change = text if len(text) <= _LONGEST_CHANGE else digest.hex()
                signing = self._identity.signing
                add_policy(tx.log, signing, subject=subject, change=change)
        return digests

    def noted(self, digests: dict[str, bytes]) -> None:
        """Remembers what is in the log, so that it is not noted again."""
        self._noted = digests

    def _subjects(self) -> Iterator[tuple[str, object]]:
        yield POLICY, self._policy.terms()
        yield "budgets", self._ledger.budget.rules.grants()
        yield "sites", self._identity.pinned_sites.fingerprints()


def reap_abandoned(
    ledger: Ledger, teacher_digest: str, after_seconds: float
) -> Operation[int]:
    """Returns what logs the oldest charges that nobody settled.

    Args:
        ledger: Ledger that the charges are in.
        teacher_digest: SHA-256 of the weights, hex, as entries name it.
        after_seconds: Age of a reservation that counts; longer than a query takes.

    Returns:
        An operation that returns how many it logged, at most _MOST_TOGETHER.
    """
    accounts = ledger.budget.rules

    def reaped(tx: LedgerTx) -> int:
        left = accounts.abandoned(tx.database, tx.now - after_seconds, _MOST_TOGETHER)
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
