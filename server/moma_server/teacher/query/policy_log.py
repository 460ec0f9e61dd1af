"""Every change of what a teacher allows becomes a signed entry of its log."""

import hashlib
import json
from collections.abc import Iterator

from moma_core.audit.ledger import Ledger, LedgerTx
from moma_core.audit.rotation import add_policy
from moma_core.policy.policy import TeacherPolicy
from moma_core.policy.usage import record_if_changed
from moma_server.teacher.end_to_end.identity import TeacherIdentity

POLICY = "policy"
"""The subject that is the same for all sites; the others name them."""

_LONGEST_CHANGE = 4096


class PolicyChangeLog:
    """Notes policy, budgets and approved sites when they are others than noted last.

    Gateways of one database that are set differently each note what they say when they
    start and when it changes, and do not answer each other.

    Args:
        end_to_end: The teacher's key, and whom its owner approved.
        policy: The owner's.
        ledger: Whose budgets are noted.
    """

    def __init__(
        self, end_to_end: TeacherIdentity, policy: TeacherPolicy, ledger: Ledger
    ) -> None:
        self._end_to_end, self._policy, self._ledger = end_to_end, policy, ledger
        self._noted: dict[str, bytes] = {}

    def write(self, tx: LedgerTx) -> dict[str, bytes]:
        """Adds an entry for each subject that says something new.

        Returns:
            What each says, for `noted` once it is on the disk.
        """
        says = {}
        for subject, terms in self._subjects():
            text = json.dumps(terms, sort_keys=True)
            says[subject] = digest = hashlib.sha256(text.encode()).digest()
            is_known = self._noted.get(subject) == digest
            if not is_known and record_if_changed(tx.database, subject, digest):
                # what is too long for an entry is committed to
                change = text if len(text) <= _LONGEST_CHANGE else digest.hex()
                add_policy(
                    tx.log, self._end_to_end.signing, subject=subject, change=change
                )
        return says

    def noted(self, says: dict[str, bytes]) -> None:
        """Remembers what is in the log, so that it is not said again."""
        self._noted = says

    def _subjects(self) -> Iterator[tuple[str, object]]:
        yield POLICY, self._policy.terms()
        yield "budgets", self._ledger.budget.rules.grants()
        yield "sites", self._end_to_end.pinned_sites.fingerprints()
