"""Mode `fedavg`: what leaves, what stays, who refuses, and a coordinator's restart."""

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from moma_core.models.backbone import Backbone
from tests.support.e2e.programs import until
from tests.support.e2e.world import MODEL, RUN_SECONDS, World

pytestmark = pytest.mark.timeout(1800)  # of the whole run, on a busy machine

ROUNDS = 2
PARTNERS, CAREFUL = ("site-a", "site-b"), "site-c"


@dataclass
class Run:
    """A run that is over."""

    world: World
    exits: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Iterator[Run]:
    world = World(
        tmp_path_factory.mktemp("averaged"),
        teacher,
        plan={"mode": "fedavg", "rounds": ROUNDS},
        sites=(*PARTNERS, CAREFUL),
    )
    for site in PARTNERS:
        world.configure(site, coordinator={"weights_may_leave": True})
    run = Run(world)
    try:
        coordinator, _ = world.serve_both()
        clients = [world.take_part(site) for site in world.names]
        until(world.rounds, seconds=RUN_SECONDS, what="a round is completed")
        run.exits["coordinator"] = coordinator.stopped(signal.SIGTERM)
        world.serve("coordinator")
        for client in clients:
            run.exits[client.name] = client.status(seconds=RUN_SECONDS)
            run.said[client.name] = client.said()
        yield run
    finally:
        world.close()


def test_the_run_goes_on_after_the_coordinator_was_restarted(run: Run) -> None:
    completed = [record.round for record in run.world.rounds()]

    assert run.exits == dict.fromkeys(("coordinator", *run.world.names), 0)
    assert completed == list(range(1, ROUNDS + 1))
    assert len({record.run for record in run.world.records()}) == 1


def test_both_partners_end_with_the_same_student(run: Run) -> None:
    students = [
        load_file(run.world.student_folder(site) / "student.safetensors")
        for site in PARTNERS
    ]

    first, second = students
    statistics = [name for name in first if "running_" in name]
    assert first.keys() == second.keys()
    assert statistics
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_the_average_is_what_the_partners_end_with(run: Run) -> None:
    weights = load_file(
        run.world.run_folder / "weights" / f"round-{ROUNDS:06d}.safetensors"
    )
    student = load_file(run.world.student_folder("site-a") / "student.safetensors")

    assert all(np.array_equal(student[name], weights[name]) for name in weights)


def test_only_the_student_leaves_and_neither_heads_nor_bank(run: Run) -> None:
    names = set(Backbone(MODEL["architecture"], 4).state_dict())

    files = sorted(run.world.run_folder.rglob("*.safetensors"))

    assert [path.name for path in files] == [
        f"round-{number:06d}.safetensors" for number in range(1, ROUNDS + 1)
    ]
    assert all(set(load_file(path)) == names for path in files)


def test_a_site_whose_weights_may_not_leave_refuses_and_is_named(run: Run) -> None:
    entries = [record.sites[CAREFUL] for record in run.world.rounds()]

    assert {(entry.state, entry.reason) for entry in entries} == {
        ("refused", "weights may not leave this site")
    }
    assert "DEBUG" not in run.said[CAREFUL]
    assert "is refused: weights may not leave this site" in run.said[CAREFUL]
    assert not list((run.world.folder / CAREFUL).rglob("student.safetensors"))


def test_the_quorum_decides_without_the_site_that_refuses(run: Run) -> None:
    records = run.world.rounds()

    assert all(record.took_part == list(PARTNERS) for record in records)
    assert {record.outcome for record in records} == {"completed"}


def test_students_name_their_teacher_and_say_how_far_they_are(run: Run) -> None:
    folder = run.world.student_folder("site-a")

    card = json.loads((folder / "student.json").read_text())

    assert card["teacher"] == "teacher-a"
    assert card["steps"] == ROUNDS * 11
    assert card["scenario"].startswith("same")
