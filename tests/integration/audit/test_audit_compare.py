"""`moma-client audit` where two parties compare by file, and what a report tells."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from moma_client.audit.log_monitor import newest_seen
from moma_client.audit.receipts import receipts_path
from moma_client.cli.main import main
from moma_client.config.teacher import FrozenTeacherSection
from moma_client.egress.outcome import StudentOutcome
from moma_client.egress.to_coordinator import CoordinatorEgress
from moma_client.teacher.connect import connect, remote_settings
from moma_core.audit.checkpoint import Checkpoint, TreeHead
from moma_core.end_to_end.signatures import SigningKey
from tests.integration.audit.test_log_exchange import forged, hospital
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import CachedSite
from tests.support.site.remote_teacher import batches, running
from tests.support.teacher.sealed import TEACHER, TEACHER_KEY, key_of
from tests.support.teacher.teacher_server import MeanColour, Served
from tests.unit.client.egress.test_to_coordinator import PEOPLE, TASK, WEIGHTS, Wire


@contextmanager
def answered(folder: Path, pki: Pki) -> Iterator[tuple[CachedSite, Served]]:
    """A teacher, and a site with a config that has asked it a little."""
    with running(folder / "teacher", pki, MeanColour()) as served:
        site = CachedSite(folder / "site", pki, served.port)
        site.write_config()
        section = site.config.teacher
        assert isinstance(section, FrozenTeacherSection)
        settings = remote_settings(site.config, section)
        remote = connect(settings, b"run", threading.Event(), site.metrics)
        with closing(remote):
            list(remote.answer_batches(batches([2] * 2)))
        yield site, served


def newest(site: CachedSite) -> Checkpoint:
    found = newest_seen(receipts_path(site.config.state_dir, TEACHER))
    assert found is not None
    return found


def audit(site: CachedSite, action: str, *theirs: Checkpoint) -> int:
    arguments = ["audit", action, "--site", str(site.path)]
    for number, checkpoint in enumerate(theirs):
        path = site.path.with_name(f"theirs-{number}.json")
        path.write_text(checkpoint.to_json() + "\n")
        arguments += ["--checkpoint", str(path)]
    return main(arguments)


def test_two_parties_of_one_log_are_told_so(
    tmp_path: Path, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    with answered(tmp_path, pki) as (site, served):
        other = hospital(tmp_path, pki, "site-b", served)
        other.ask(3)
        printed = audit(site, "checkpoint"), capsys.readouterr().out

        status = audit(site, "compare", other.newest)

    assert (status, printed[0]) == (0, 0)
    assert Checkpoint.parse(printed[1].strip()).origin == newest(site).origin
    assert "one log: test-federation/teacher-a/1 at" in capsys.readouterr().out


def test_two_logs_are_refused_for_good(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path / "teacher", pki, MeanColour()):
        pass
    shutil.copytree(tmp_path / "teacher", tmp_path / "fork")
    with running(tmp_path / "fork", pki, MeanColour()) as served:
        other = hospital(tmp_path, pki, "site-b", served)
        other.ask(4)

    with answered(tmp_path, pki) as (site, _):
        statuses = audit(site, "compare", other.newest), audit(site, "fetch")

    assert statuses == (3, 3)
    assert "shows two faces" in caplog.text
    assert "asked nothing until that file is moved away" in caplog.text


def test_what_is_not_of_this_teacher_is_no_reason_to_accuse_it(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = TreeHead("test-federation/teacher-b/1", 3, bytes(32), 0)
    with answered(tmp_path, pki) as (site, _):
        lie = forged(newest(site), SigningKey.create())
        statuses = [
            audit(site, "compare", lie),
            audit(site, "compare", Checkpoint.sign(elsewhere, key_of(TEACHER))),
            audit(site, "compare", newest(site)),
        ]

    assert statuses == [1, 1, 0]
    assert "is signed by" in caplog.text
    assert "is of the log test-federation/teacher-b/1, not of teacher-a" in caplog.text


def test_receipts_of_a_key_that_was_pinned_before_are_verified(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    with answered(tmp_path, pki) as (site, _):
        pass
    site.values["teacher"]["key"] = str(SigningKey.create().public)
    site.write_config()

    unknown = audit(site, "verify")
    site.values["teacher"]["former_keys"] = [TEACHER_KEY]
    site.write_config()

    assert (unknown, audit(site, "verify")) == (1, 0)
    assert "not among teacher.former_keys" in caplog.text


def test_a_report_tells_the_newest_state_that_the_site_was_shown(
    tmp_path: Path, pki: Pki
) -> None:
    with answered(tmp_path, pki) as (site, _):
        pass
    wire = Wire()
    figures = {"validation_accuracy": 0.9}
    outcome = StudentOutcome(figures, 100, WEIGHTS, "ab" * 32, {"validation": PEOPLE})

    CoordinatorEgress(site.config, site.metrics).tell(wire, TASK, {"moma": outcome})

    assert wire.reports[0].checkpoint == newest(site)
    assert set(Checkpoint.model_fields) == {
        "origin",
        "size",
        "root",
        "time_ms",
        "key",
        "signature",
    }
