"""A teacher is destroyed and restored by the commands of docs/backup.md.

That a site finds a restored old log out is in `test_receipts.py`, with a real teacher.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moma_core.audit.ledger import Ledger
from moma_server.cli.init import ServerSetup, init_server
from moma_server.config.server import ServerConfig
from moma_server.state import open_ledger
from tests.support.machine.shell import marked_blocks, run_blocks
from tests.support.teacher.audit_log import ask, query

_PAGE = Path(__file__).resolve().parents[3] / "docs" / "backup.md"
_BLOCKS = dict(marked_blocks(_PAGE))  # backup, restore, verify
_SECONDS = 120


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A teacher that was asked three times."""
    folder = tmp_path / "teacher"
    init_server(folder, ServerSetup(roles=("teacher",)))
    _ask(folder, 1, 2, 3)
    return folder


@contextmanager
def _ledger(folder: Path) -> Iterator[Ledger]:
    config = ServerConfig.from_yaml(folder / "server.yaml")
    with open_ledger(config, config.own_teacher()) as ledger:
        yield ledger


def _ask(folder: Path, *numbers: int) -> None:
    """Asks, and keeps what the site was shown last."""
    with _ledger(folder) as ledger:
        receipts = ask(ledger, *(query(number) for number in numbers))
    shown = receipts[-1].checkpoint.to_json()
    (folder.parent / "site-a.json").write_text(shown, "utf-8")


def _run(name: str, folder: Path) -> tuple[int, str]:
    return run_blocks(_BLOCKS[name], folder.parent, seconds=_SECONDS)


def _restored(teacher: Path) -> None:
    shutil.rmtree(teacher)
    status, said = _run("restore", teacher)
    assert status == 0, said


def test_a_restored_teacher_has_its_log_its_budget_and_its_key(teacher: Path) -> None:
    status, said = _run("backup", teacher)
    assert status == 0, said
    key = (teacher / "signing.key").read_bytes()

    _restored(teacher)
    status, said = _run("verify", teacher)

    assert status == 0, said
    assert "verified: 4 entries" in said  # the first one says who keeps it
    assert "site-a: 6 patches charged" in said
    assert (teacher / "signing.key").read_bytes() == key
    with _ledger(teacher) as ledger:
        assert ledger.budget.charged("site-a") == 6
        (receipt,) = ask(ledger, query(4))  # and the log grows on
    assert receipt.checkpoint.size == 5


def test_an_old_backup_is_told_by_what_a_site_was_shown(teacher: Path) -> None:
    status, said = _run("backup", teacher)
    assert status == 0, said
    _ask(teacher, 4)

    _restored(teacher)
    status, said = _run("verify", teacher)

    assert status == 1
    assert "had 5 entries when" in said, said
