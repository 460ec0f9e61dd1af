"""A run that everything interrupts: kill, stop, a spent budget, a restarted teacher.

One federation goes through all of it, step by step; the tests read what happened.
"""

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from moma_server.config.server import ServerConfig
from moma_server.state import budget_store
from tests.support.e2e.programs import Program, ended, processes_of, until
from tests.support.e2e.world import CLOSE_SECONDS, SITES, TEACHER, World, as_json
from tests.support.federation.world import START_SECONDS
from tests.support.machine.waiting import promised

pytestmark = [
    pytest.mark.slow,  # kills go on in `make test-faults`
    pytest.mark.timeout(1800),  # of the whole story, on a busy machine
]

ROUNDS, EPOCHS = 2, 3
SMALL_GRANT = 100  # less than one epoch
_DEADLINE_SECONDS = 280.0
_RUN_SECONDS = START_SECONDS + ROUNDS * _DEADLINE_SECONDS + CLOSE_SECONDS
_ENDS_SECONDS = START_SECONDS + 60.0  # and a lost question is put again after 30 s


@dataclass
class Story:
    """What was seen on the way."""

    world: World
    teacher: Program
    exits: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Iterator[Story]:
    world = World(
        tmp_path_factory.mktemp("interrupted"),
        teacher,
        plan={
            "rounds": ROUNDS,
            "local_epochs": EPOCHS,
            "quorum": 1,
            "deadline_seconds": _DEADLINE_SECONDS,
        },
        grants={"site-a": 10_000, "site-b": SMALL_GRANT},
    )
    try:
        for site in SITES:  # asked at every step: there is something to interrupt
            world.configure(site, teacher={"views": 0})
        coordinator, serving = world.serve_both()
        story = Story(world, serving)
        poor, killed = world.take_part("site-b"), world.take_part("site-a")
        _kill_in_the_middle(story, killed)
        _spend_the_budget(story, poor)
        _stop_in_the_middle(story, world.take_part("site-a"))
        last = world.take_part("site-a")
        _restart_the_teacher(story, last)
        story.exits["site-a"] = last.status(seconds=_RUN_SECONDS)
        story.said["last"] = last.said()
        story.exits["coordinator"] = coordinator.stopped(signal.SIGINT)
        yield story
    finally:
        world.close()


def _kill_in_the_middle(story: Story, client: Program) -> None:
    _trains(story.world, client)
    client.killed()
    story.steps["killed"] = _checkpoint_step(story.world)
    folder = story.world.folder / "site-a"
    until(
        lambda: not processes_of(folder),
        seconds=promised(10),
        what="the killed client's node is gone too",
    )


def _spend_the_budget(story: Story, client: Program) -> None:
    """And the operator takes the site out, so that no round waits for it."""
    story.exits["site-b"] = client.status(seconds=_ENDS_SECONDS)
    story.said["site-b"] = client.said()
    config = story.world.folder / "coordinator" / "server.yaml"
    ended("moma-server", "revoke", "--config", config, "site-b")


def _stop_in_the_middle(story: Story, client: Program) -> None:
    _trains(story.world, client)
    story.exits["stopped"] = client.stopped(signal.SIGINT)
    story.said["stopped"] = client.said()
    story.steps["stopped"] = _checkpoint_step(story.world)


def _restart_the_teacher(story: Story, client: Program) -> None:
    _trains(story.world, client)
    story.exits["teacher"] = story.teacher.stopped()
    story.teacher = story.world.serve("teacher")
    story.teacher.shows("moma_teacher_inflight_requests")


def _trains(world: World, client: Program) -> None:
    """Waits until a client has taken a few steps of its own."""

    def has_stepped() -> bool:
        assert client.process.poll() is None, client.said()[-2000:]
        count = "moma_client_step_duration_seconds_count"
        return client.metric(count, phase="step") >= 4

    until(has_stepped, seconds=_ENDS_SECONDS, what=f"{client.name} trains")
    time.sleep(0.05)  # anywhere in a step


def _checkpoint_step(world: World) -> int:
    path = world.student_folder("site-a") / "checkpoint.pt"
    step: int = torch.load(path, weights_only=True)["step"]
    return step


def test_a_killed_client_goes_on_from_its_last_checkpoint(story: Story) -> None:
    steps = ROUNDS * EPOCHS * 11

    assert 0 < story.steps["killed"] < story.steps["stopped"] < steps
    for which, before in (("stopped", "killed"), ("last", "stopped")):
        first = f"going on after step {story.steps[before]} of {steps}"
        assert first in story.said[which]


def test_the_run_completes_with_the_site_that_came_back(story: Story) -> None:
    rounds = story.world.rounds()

    assert story.exits["site-a"] == 0
    assert [record.outcome for record in rounds] == ["completed"] * ROUNDS
    assert all("site-a" in record.took_part for record in rounds)


def test_nothing_is_charged_twice_however_often_it_is_interrupted(
    story: Story,
) -> None:
    config = ServerConfig.from_yaml(story.world.folder / "teacher" / "server.yaml")
    assert config.teacher is not None
    ledger = budget_store(config, config.teacher)
    labels = {"site": "site-a", "teacher": TEACHER}

    charged = ledger.charged("site-a")
    ledger.close()

    golden = 1
    assert charged == golden + story.world.asked("site-a", epochs=ROUNDS * EPOCHS)
    assert story.teacher.metric("moma_teacher_patches_total", **labels) == charged


def test_a_stopped_client_says_so_and_ends_in_time(story: Story) -> None:
    assert story.exits["stopped"] == 130
    assert "the same command resumes" in story.said["stopped"]
    assert "Traceback" not in story.said["stopped"]


def test_servers_that_are_stopped_end_well_and_in_time(story: Story) -> None:
    assert (story.exits["teacher"], story.exits["coordinator"]) == (0, 0)


def test_a_spent_budget_ends_the_client_with_a_sentence_and_status_3(
    story: Story,
) -> None:
    last_line = story.said["site-b"].strip().splitlines()[-1]

    assert story.exits["site-b"] == 3
    assert "budget" in last_line
    assert "Traceback" not in story.said["site-b"]


def test_no_more_than_the_grant_is_ever_charged(story: Story) -> None:
    config = story.world.folder / "teacher" / "server.yaml"

    status = as_json(
        ended("moma-server", "status", "--json", "--config", config).stdout
    )

    budget = status["budgets"]["site-b"]
    assert 0 < budget["charged_patches"] <= SMALL_GRANT
    assert (
        story.teacher.metric(
            "moma_teacher_patches_total", site="site-b", teacher=TEACHER
        )
        == budget["charged_patches"]
    )


def test_the_record_names_the_site_whose_budget_is_spent(story: Story) -> None:
    entry = story.world.rounds()[0].sites["site-b"]

    assert entry.state == "refused"
    assert entry.reason == "the site cannot train; its operator knows why"


def test_nothing_is_left_running(story: Story) -> None:
    story.teacher.stopped()

    assert processes_of(story.world.folder) == []
