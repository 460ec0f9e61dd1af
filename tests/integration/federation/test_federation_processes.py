"""Processes that end when they should, and come back when they should not have."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moma_client.federation.node import FederationNode
from moma_server.config.federation_plan import FederationPlan
from moma_server.federation.engine.superlink import MARK
from tests.support.federation.superlink_tree import processes_of
from tests.support.federation.world import START_SECONDS, World, longest, wait_for
from tests.support.machine.waiting import promised

_OWNER = """
import sys, time
from pathlib import Path
from moma_server.federation.engine.superlink import SuperLink
superlink = SuperLink(Path(sys.argv[1]))
superlink.start()
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def processes_with(text: str) -> list[int]:
    """Returns whose environment or command holds `text`, as far as we may see."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if text.encode() in environment + command and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def test_superlink_and_its_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        (mark,) = {
            entry
            for pid in processes_with(str(tmp_path / "flwr"))
            for entry in Path(f"/proc/{pid}/environ").read_text().split("\0")
            if entry.startswith(MARK)
        }
        alive = processes_with(mark)

        owner.kill()

    assert len(alive) >= 2  # SuperLink and its SuperExec
    wait_for(lambda: not processes_with(mark), seconds=promised(10))


@pytest.mark.slow
@pytest.mark.timeout(900)  # two runs that last to every deadline
def test_a_superlink_that_died_comes_back_and_the_run_goes_on(world: World) -> None:
    world.admit("site-a")
    plan = FederationPlan(
        rounds=2, quorum=1, poll_seconds=0.1, deadline_seconds=90, close_seconds=60
    )
    coordinator = world.coordinator(plan)
    world.run_site("site-a", coordinator.port, seconds=1.0)
    wait_for(lambda: world.journal("site-a"), seconds=longest(plan))
    (superlink,) = processes_of(coordinator.engine.socket, "flower-superlink")

    os.kill(superlink, signal.SIGKILL)
    over = coordinator.wait(longest(plan))

    assert over
    completed = [r.round for r in world.rounds() if r.outcome == "completed"]
    assert completed == [1, 2]


def test_a_node_that_finds_no_coordinator_still_stops_in_time(world: World) -> None:
    world.admit("site-a")
    settings = world.settings("site-a", port=9)  # nobody is there
    node = FederationNode(settings)
    stop = threading.Event()

    with node:
        wait_for(lambda: processes_with(str(settings.folder)), seconds=120)
        time.sleep(3)  # into the depths of Flower's retries
        stop.set()
        tasks = list(node.tasks(stop))
        started = time.monotonic()
    seconds = time.monotonic() - started

    assert tasks == []
    assert seconds < promised(8)
    assert processes_with(str(settings.folder)) == []


def test_a_node_dies_with_its_killed_session(world: World) -> None:
    world.admit("site-a")
    world.run_site("site-a", port=9)
    folder = str(world.settings("site-a", port=9).folder)
    wait_for(lambda: len(processes_with(folder)) == 2)

    world.sites["site-a"].kill()
    world.sites["site-a"].wait()
    wait_for(lambda: not processes_with(folder), seconds=promised(10))

    assert processes_with(folder) == []


def test_a_second_machine_with_a_sites_key_is_told_of_the_first(
    world: World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    world.admit("site-a")
    world.admit("site-b")
    coordinator = world.coordinator(FederationPlan(rounds=1, quorum=2))
    world.run_site("site-a", coordinator.port)
    log = world.folder / "site-a" / "log"
    wait_for(lambda: "connected to" in log.read_text(), START_SECONDS)
    first = world.settings("site-a", coordinator.port)

    with FederationNode(replace(first, folder=world.folder / "second")):
        wait_for(lambda: "is connected with this site's node key" in caplog.text)

    assert "not connected, waiting for the coordinator" not in caplog.text
    said = capfd.readouterr().err
    assert "flower.ai" not in said
    assert "Exit Code" not in said
