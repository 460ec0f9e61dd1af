"""Every change of what a teacher allows becomes a signed entry of its log."""

import hashlib
import json
from collections.abc import Iterator

from moma_core.audit.books import Books, Page
from moma_core.audit.rotation import add_policy
from moma_core.policy.rules import TeacherPolicy
from moma_core.policy.standing import is_news
from moma_server.teacher.trust import EndToEnd

POLICY = "policy"
"""The subject that is the same for all sites; the others name them."""

_LONGEST_CHANGE = 4096


class PolicyNotes:
    """Notes policy, budgets and approved sites when they are others than noted last.

    Args:
        end_to_end: The teacher's key, and whom its owner approved.
        policy: The owner's.
        books: Whose budgets are noted.
    """

    def __init__(
        self, end_to_end: EndToEnd, policy: TeacherPolicy, books: Books
    ) -> None:
        self._end_to_end, self._policy, self._books = end_to_end, policy, books

    def write(self, page: Page) -> None:
        """Adds an entry for each subject that says something new."""
        for subject, terms in self._subjects():
            text = json.dumps(terms, sort_keys=True)
            digest = hashlib.sha256(text.encode()).digest()
            if is_news(page.database, subject, digest):
                # what is too long for an entry is committed to
                change = text if len(text) <= _LONGEST_CHANGE else digest.hex()
                add_policy(
                    page.log, self._end_to_end.signing, subject=subject, change=change
                )

    def _subjects(self) -> Iterator[tuple[str, object]]:
        yield POLICY, self._policy.terms()
        yield "budgets", self._books.ledger.accounts.grants()
        yield "sites", self._end_to_end.approvals.fingerprints()
