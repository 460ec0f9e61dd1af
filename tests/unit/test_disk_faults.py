"""Every writer on a disk that is full or read-only: one sentence, nothing half."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from moma_client.cache.folder import RequestJournal
from moma_client.egress.disclosed import DisclosureFile, DisclosureState
from moma_client.egress.log import EgressLog
from moma_client.federation.inbox import TaskStore
from moma_client.student.files import save_student
from moma_core.data.view_mask import ViewMask
from moma_core.end_to_end.pinned_sites import approve
from moma_core.end_to_end.signatures import STUDENT_CARD, SigningKey, sign_file
from moma_core.errors import CheckpointError, DiskError, TeacherUnavailableError
from moma_core.federation.task import RoundReport
from moma_core.models.backbone import Backbone
from moma_core.models.weights import save_weights
from moma_core.pki import revocations
from moma_core.pki.key_files import ensure_key, load_or_create_secret
from moma_core.policy.coverage import CoverageMap
from moma_core.runtime.files import append_json, write_private
from moma_core.training.checkpoint import (
    TrainingState,
    load_checkpoint,
    random_state,
    save_checkpoint,
)
from moma_server.enrolment.service import EnrolmentJournal
from tests.support.machine.disks import fill, largest_file, small_disk
from tests.support.site.teacher_caches import CARD, open_cache, truth, view_batch
from tests.support.teacher.audit_log import ask, ledger_in, query
from tests.unit.client.federation.test_inbox import WEIGHTS, task
from tests.unit.client.student.test_files import CARD as STUDENT

NOW = datetime(2026, 3, 1, tzinfo=UTC)
KIBIBYTES = 1024


def state(step: int, floats: int = 50_000) -> TrainingState:
    return TrainingState(
        version=1,
        run="r",
        step=step,
        adopted_round=0,
        distiller={"w": torch.ones(floats)},
        teacher={},
        optimiser={},
        schedule={},
        scaler={},
        random=random_state(),
    )


def _signed(disk: Path) -> None:
    sign_file(disk / "card.json", SigningKey.create(), STUDENT_CARD)


def _cached(disk: Path) -> None:
    batch = view_batch(range(30), 0)
    with closing(open_cache(disk)) as cache:
        cache.write(batch, truth(batch))
        cache.flush()


def _journal(disk: Path) -> None:
    with closing(RequestJournal(disk / "cache.asked")) as journal:
        journal.add(np.arange(20_000))


def _map(disk: Path) -> None:
    embedding = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    CoverageMap.of_reference(embedding, "a" * 64, seed=0).save(disk / "map")


Writer = Callable[[Path], object]
WRITERS: dict[str, Writer] = {
    "a key": lambda d: ensure_key(d / "new.key"),
    "a secret": lambda d: load_or_create_secret(d / "runs" / "request.key"),
    "a checkpoint": lambda d: save_checkpoint(d / "c.pt", state(2)),
    "weights": lambda d: save_weights(Backbone(STUDENT.architecture, 2), d / "w"),
    "a student": lambda d: save_student(
        d / "moma", Backbone(STUDENT.architecture, 2), STUDENT
    ),
    "a teacher's card": lambda d: CARD.save(d / "teacher.json"),
    "a signature": _signed,
    "a coverage map": _map,
    "the teacher cache": _cached,
    "the journal of requests": _journal,
    "a mask of views": lambda d: ViewMask(np.ones(4000, np.uint64)).save(d / "m.npy"),
    "a record": lambda d: append_json(d / "figures.jsonl", {"told": "x" * 5000}),
    "what was disclosed": lambda d: DisclosureFile(d / "told.json").write(
        DisclosureState(blocked={"x" * 5000: 1})
    ),
    "the egress log": lambda d: EgressLog(d / "e.jsonl").add(
        "teacher", "sent", "x" * 5000
    ),
    "a report": lambda d: TaskStore(d).put_report(
        task(1), RoundReport(patches=4, weights=WEIGHTS)
    ),
    "pinned sites": lambda d: approve(
        d / "pins.json", site="site-a", key=SigningKey.create().public, now=NOW
    ),
    "revocations": lambda d: revocations.start(d / "revoked.json"),
    "the journal of enrolments": lambda d: EnrolmentJournal(
        d / "enrolments.jsonl", lambda: NOW
    ).note("enrolled", name="x" * 300, reason="y" * 5000),
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 512) as folder:
        yield folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {"filler", ".lock"}
    }


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("fault", ["No space left on device", "Read-only file system"])
def test_what_a_disk_does_not_take_is_one_sentence(
    disk: Path, name: str, fault: str
) -> None:
    write_private(disk / "card.json", b"{}")
    (disk / ".lock").touch()
    write_private(disk / "c.pt", b"the old one")
    before = files(disk)
    if fault.startswith("No"):
        fill(disk)
    else:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)  # noqa: S607

    with pytest.raises((DiskError, CheckpointError)) as raised:
        WRITERS[name](disk)

    assert str(raised.value).startswith("cannot write ")
    assert f"{disk}" in str(raised.value)
    assert fault in str(raised.value)
    advice = "free some space there" if fault.startswith("No") else "mount it for"
    assert advice in str(raised.value)
    left = {file: content for file, content in files(disk).items() if any(content)}
    assert left == before


def test_a_checkpoint_beyond_the_limit_of_a_file_leaves_the_one_before(
    tmp_path: Path,
) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, state(1))

    with (
        largest_file(100 * KIBIBYTES),
        pytest.raises(CheckpointError, match=r"File too large; raise the limit"),
    ):
        save_checkpoint(path, state(2, 500_000))

    kept = load_checkpoint(path, "r")
    assert kept is not None
    assert kept["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_site_whose_disk_is_full_still_says_that_it_failed(disk: Path) -> None:
    store = TaskStore(disk)
    store.put_task(task(1), "origin")
    fill(disk)

    with pytest.raises(DiskError):
        store.put_report(task(1), RoundReport(refusal="this site cannot train"))
    store.put_failure(task(1))

    assert store.is_reported(task(1))
    assert store.report(task(1)) is None


def test_a_line_that_did_not_fit_is_not_there_when_there_is_room_again(
    disk: Path,
) -> None:
    record = disk / "record.jsonl"
    append_json(record, {"number": 1})
    filler = fill(disk)
    with pytest.raises(DiskError):
        append_json(record, {"number": 2, "more": "x" * 8192})

    filler.unlink()
    append_json(record, {"number": 3})

    assert record.read_text() == '{"number": 1}\n{"number": 3}\n'


def test_requests_that_did_not_fit_are_not_noted(disk: Path) -> None:
    with closing(RequestJournal(disk / "cache.asked")) as journal:
        journal.add(np.array([1, 2]))
        filler = fill(disk)
        with pytest.raises(DiskError):
            journal.add(np.arange(20_000))
        with pytest.raises(DiskError):
            journal.keep([np.array([1, 2])])
        filler.unlink()
        journal.add(np.array([3]))

    with closing(RequestJournal(disk / "cache.asked")) as journal:
        assert [group.tolist() for group in journal.groups()] == [[1, 2], [3]]


def test_a_ledger_that_finds_no_room_charges_nothing_and_goes_on_when_there_is_some(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ledger_in(disk) as ledger:
        ask(ledger, query(1))
        filler = fill(disk)
        with pytest.raises(TeacherUnavailableError, match="database cannot be used"):
            ask(ledger, *map(query, range(2, 500)))  # SQLite has some room by itself
        before = ledger.budget.charged("site-a")
        filler.unlink()
        (receipt,) = ask(ledger, query(500))

        assert before == 2
        assert ledger.budget.charged("site-a") == 4
        assert receipt.place == 2  # behind the entry that opens the log, and one query
    assert "disk is full" in caplog.text
    assert "Traceback" not in caplog.text
