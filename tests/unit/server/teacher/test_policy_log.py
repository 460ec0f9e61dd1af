from pathlib import Path
from types import SimpleNamespace
from typing import Any

from moma_core.audit.ledger import Ledger
from moma_core.policy.policy import TeacherPolicy
from moma_server.teacher.query.upkeep import PolicyChangeLog
from tests.support.teacher.audit_log import KEY, exported, ledger_in, written


class _Gateway:
    """One of several that share a database, with approvals of its own."""

    def __init__(self, ledger: Ledger, *sites: str) -> None:
        self._ledger = ledger
        self.sites = dict.fromkeys(sites, str(KEY.public))
        trust: Any = SimpleNamespace(
            signing=KEY, pinned_sites=SimpleNamespace(fingerprints=lambda: self.sites)
        )
        self._notes = PolicyChangeLog(trust, TeacherPolicy(), ledger)

    def look(self, *, is_kept: bool = True) -> None:
        says = written(self._ledger, self._notes.write)
        if is_kept:
            self._notes.noted(says)


def _noted(ledger: Ledger, folder: Path) -> int:
    lines = exported(ledger, folder)
    return sum(b'"kind":"policy"' in line for line in lines)


def test_gateways_that_differ_do_not_answer_each_other(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        one, other = _Gateway(ledger, "site-a"), _Gateway(ledger, "site-b")
        for _ in range(5):
            one.look()
            other.look()

        assert _noted(ledger, tmp_path) == 4  # policy, budgets, and sites twice

        one.sites["site-c"] = str(KEY.public)
        one.look()
        assert _noted(ledger, tmp_path) == 5


def test_what_may_not_be_on_the_disk_is_looked_at_again(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        gateway = _Gateway(ledger, "site-a")
        gateway.look(is_kept=False)
        gateway.look()

        assert _noted(ledger, tmp_path) == 3
