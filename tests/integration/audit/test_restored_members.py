"""A coordinator and a site are destroyed, and restored as docs/backup.md has it."""

import shutil
import time
from hashlib import sha256
from pathlib import Path

import pytest

from moma_client.audit.receipts import receipts_path
from moma_client.cli.init import SiteSetup, init_site
from moma_client.config.site import SiteConfig
from moma_core.runtime.files import make_folder, write_private
from tests.support.e2e.programs import ended
from tests.support.federation.shown_run import coordinator_folder
from tests.support.machine.shell import marked_blocks, run_blocks
from tests.support.teacher.audit_log import KEY, ask, ledger_in, query

_PAGE = Path(__file__).resolve().parents[3] / "docs" / "backup.md"
_BLOCKS = dict(marked_blocks(_PAGE))
_SECONDS = 120


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A coordinator in a run with two members, and the site that is one of them."""
    coordinator_folder(tmp_path / "coordinator", now=time.time())
    setup = SiteSetup(site="site-a", teacher_key=str(KEY.public))
    for name in ("site-a", "site-b"):
        init_site(tmp_path / name, setup.model_copy(update={"site": name}))
        _admit(tmp_path, name)
    ended("moma-server", "revoke", "site-b", *_config(tmp_path))
    _answer(SiteConfig.from_yaml(tmp_path / "site-a" / "config.yaml"), tmp_path)
    return tmp_path


def _config(place: Path) -> tuple[str, str]:
    return "--config", str(place / "coordinator" / "server.yaml")


def _admit(place: Path, name: str) -> None:
    site = place / name
    given = ("--csr", str(site / "site.csr"), "--node-key", str(site / "node.pub"))
    signed = ("--site", name, "--out", str(site / "site.pem"))
    done = ended("moma-server", "admit", *_config(place), *signed, *given)
    assert done.returncode == 0, done.stderr
    shutil.copy(place / "coordinator" / "ca.pem", site / "ca.pem")


def _answer(config: SiteConfig, place: Path) -> None:
    """Leaves what a run leaves: three receipts, and a folder for its owner alone."""
    path = receipts_path(config.state_dir, "teacher-a")
    make_folder(path.parent)
    with ledger_in(place) as ledger:
        receipts = ask(ledger, query(1), query(2), query(3))
    lines = "".join(f"{receipt.to_json()}\n" for receipt in receipts)
    write_private(path, lines.encode())


def _run(name: str, place: Path) -> str:
    status, said = run_blocks(_BLOCKS[name], place, seconds=_SECONDS)
    assert status == 0, said
    return said


def _content(folder: Path) -> dict[str, tuple[int, str]]:
    """Returns mode and digest of each file, and mode of each folder, by its path."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in folder.rglob("*")
    }


def test_a_restored_coordinator_has_its_members_its_revoked_and_its_run(
    place: Path,
) -> None:
    before = _content(place / "coordinator")
    _run("members-backup", place)
    shutil.rmtree(place / "coordinator")

    said = _run("coordinator-restore", place)

    assert "site site-a: " in said
    assert "site site-b: revoked" in said
    assert "run: 4 of 10 rounds, running" in said
    assert _content(place / "coordinator") == before
    init_site(place / "site-c", SiteSetup(site="site-c", teacher_key=str(KEY.public)))
    _admit(place, "site-c")  # by the CA's key, into the same federation


def test_a_restored_site_has_its_receipts_and_its_keys(place: Path) -> None:
    before = _content(place / "site-a")
    _run("members-backup", place)
    shutil.rmtree(place / "site-a")

    said = _run("site-restore", place)

    assert "verified: 3 receipts of teacher-a, 6 patches charged" in said
    assert _content(place / "site-a") == before
