"""Sites that were shown two logs find it out, whoever carries what they saw."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from moma_client.audit.log_monitor import newest_seen
from moma_core.audit.checkpoint import Checkpoint, TreeHead
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import LogForkError, TeacherUnavailableError
from moma_core.federation.messages import pack_task, unpack_task
from moma_core.federation.task import RoundReport, RoundTask
from moma_server.config.federation_plan import FederationPlan, RunOrder
from moma_server.federation.run.records import RecordFile
from moma_server.federation.run.run import FederatedRun
from tests.support.federation.fake_sites import Behaviour, FakeClock, FakeSites
from tests.support.federation.pki import Pki
from tests.support.site.remote_teacher import (
    QUICK,
    ScriptedTeacher,
    Site,
    batches,
    honest,
    running,
    scripted,
)
from tests.support.teacher.sealed import TEACHER, key_of
from tests.support.teacher.teacher_server import MeanColour, Served

HASTY = replace(QUICK, failures=0)


@dataclass
class Hospital:
    """A site, and the file of its receipts."""

    site: Site
    receipts: Path

    @property
    def newest(self) -> Checkpoint:
        found = newest_seen(self.receipts)
        assert found is not None
        return found

    @property
    def evidence(self) -> Path:
        return self.receipts.with_suffix(".evidence.json")

    def ask(self, queries: int, run_key: bytes = b"run") -> None:
        with self.site.teacher(run_key=run_key, retries=HASTY) as teacher:
            list(teacher.answer_batches(batches([2] * queries)))

    def compare(self, *shown: Checkpoint) -> None:
        with self.site.teacher(retries=HASTY) as teacher:
            teacher.compare_log(shown)

    def at(self, served: Served) -> "Hospital":
        address = f"localhost:{served.port}"
        self.site.address = replace(self.site.address, address=address)
        return self

    def mismatches(self, reason: str) -> float:
        return self.site.metric("audit_mismatch_total", reason=reason)


def hospital(folder: Path, pki: Pki, name: str, served: Served) -> Hospital:
    site = Site(folder / name, pki, served.port, credential=pki.site(name))
    receipts = folder / name / "receipts" / "teacher-a.jsonl"
    site.end_to_end = replace(site.end_to_end, site=name, receipts=receipts)
    return Hospital(site, receipts)


@contextmanager
def two_faces(
    folder: Path, pki: Pki, queries: tuple[int, int]
) -> Iterator[tuple[Hospital, Hospital, MeanColour]]:
    """A teacher that keeps a book for each of two sites, and shows each its own."""
    with running(folder / "one", pki, MeanColour()):
        pass
    shutil.copytree(folder / "one", folder / "other")
    colours = MeanColour()
    with (
        running(folder / "one", pki, MeanColour()) as one,
        running(folder / "other", pki, colours) as other,
    ):
        a = hospital(folder, pki, "site-a", one)
        b = hospital(folder, pki, "site-b", other)
        a.ask(queries[0])
        b.ask(queries[1])
        yield a, b, colours


def forged(like: Checkpoint, key: SigningKey) -> Checkpoint:
    head = TreeHead(like.origin, like.size, bytes(32), like.time_ms)
    return Checkpoint.sign(head, key)


@pytest.mark.parametrize(
    ("queries", "reason"), [((3, 3), "root"), ((2, 4), "history"), ((4, 2), "history")]
)
def test_two_logs_for_two_sites_are_found_through_the_coordinators_rounds(
    tmp_path: Path, pki: Pki, queries: tuple[int, int], reason: str
) -> None:
    with two_faces(tmp_path, pki, queries) as (a, b, colours):
        found = _two_rounds(tmp_path, {"site-a": a, "site-b": b})
        asked = colours.patches
        with pytest.raises(LogForkError, match="asked nothing until"):
            b.ask(1, b"later")
        assert colours.patches == asked

    assert set(found) == {"site-a", "site-b"}
    assert "forked" in str(found["site-a"])
    assert str(a.evidence) in str(found["site-a"])
    assert a.mismatches(reason) == 1
    kept = [
        Checkpoint.model_validate(each) for each in json.loads(a.evidence.read_text())
    ]
    for each in kept:
        each.check(key_of(TEACHER).public)
    assert {each.root for each in kept} >= {a.newest.root}
    first = RecordFile(tmp_path / "records.jsonl").read()[0]
    assert first.sites["site-b"].checkpoint == b.newest


def _two_rounds(folder: Path, sites: dict[str, Hospital]) -> dict[str, LogForkError]:
    """Returns who found two logs when the coordinator carried what each has seen."""
    found: dict[str, LogForkError] = {}

    def behaviour(name: str) -> Behaviour:
        def answer(task: RoundTask, _ask: int) -> RoundReport:
            carried = unpack_task(pack_task(task), max_weights_bytes=0)
            try:
                sites[name].compare(*carried.checkpoints)
            except LogForkError as error:
                found.setdefault(name, error)
            return RoundReport(patches=10, checkpoint=sites[name].newest)

        return answer

    order = RunOrder(
        plan=FederationPlan(rounds=2),
        run="r1",
        first_round=1,
        nodes=folder / "nodes.json",
        records=folder / "records.jsonl",
        weights=folder,
    )
    fakes = FakeSites(FakeClock(), {name: behaviour(name) for name in sites})
    FederatedRun(
        order, sites=fakes, registered=lambda: sorted(sites), clock=fakes.clock
    ).run()
    return found


def test_sites_of_one_log_agree_whoever_saw_more_of_it(
    tmp_path: Path, pki: Pki
) -> None:
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        a = hospital(tmp_path, pki, "site-a", served)
        b = hospital(tmp_path, pki, "site-b", served)
        a.ask(3)
        b.ask(3)
        older, newer = a.newest, b.newest

        a.compare(older, newer)
        b.compare(older, newer)

    assert a.newest.size >= newer.size > older.size
    assert not a.evidence.exists()
    assert not b.evidence.exists()


def test_what_the_teacher_did_not_sign_is_ignored_and_counted(
    tmp_path: Path, pki: Pki
) -> None:
    with running(tmp_path / "teacher", pki, MeanColour()) as served:
        a = hospital(tmp_path, pki, "site-a", served)
        a.ask(2)
        lie = forged(a.newest, SigningKey.create())
        broken = a.newest.model_copy(update={"size": a.newest.size + 1})
        elsewhere = TreeHead("test-federation/teacher-b/1", 3, bytes(32), 0)

        a.compare(lie, broken, Checkpoint.sign(elsewhere, SigningKey.create()))
        a.ask(1, b"later")

    assert a.mismatches("signature") == 2
    assert not a.evidence.exists()


def test_a_status_that_anybody_can_make_up_is_nothing_against_a_teacher(
    tmp_path: Path, pki: Pki
) -> None:
    teacher = ScriptedTeacher(honest)
    with scripted(pki, teacher) as port:
        site = Site(tmp_path, pki, port)
        receipts = tmp_path / "receipts" / "teacher-a.jsonl"
        site.end_to_end = replace(site.end_to_end, receipts=receipts)
        a = Hospital(site, receipts)
        a.ask(2)
        teacher.log_status = grpc.StatusCode.NOT_FOUND

        with pytest.raises(TeacherUnavailableError, match="not signed"):
            a.ask(2, b"later")

    assert not a.evidence.exists()


def test_a_site_that_is_told_nothing_of_others_finds_nothing(
    tmp_path: Path, pki: Pki
) -> None:
    with two_faces(tmp_path, pki, (3, 3)) as (a, b, _):
        a.compare()
        a.compare(a.newest)
        a.ask(1, b"later")

        b.compare()

    assert not a.evidence.exists()
    assert not b.evidence.exists()


def test_a_teacher_that_was_away_proves_it_before_it_is_asked_again(
    tmp_path: Path, pki: Pki
) -> None:
    with two_faces(tmp_path, pki, (2, 4)) as (a, b, _):
        theirs = b.newest
    with pytest.raises(TeacherUnavailableError):
        a.compare(theirs)

    colours = MeanColour()
    with (
        running(tmp_path / "one", pki, colours) as served,
        pytest.raises(LogForkError, match="forked"),
    ):
        a.at(served).ask(1, b"later")

    assert colours.patches == 0
