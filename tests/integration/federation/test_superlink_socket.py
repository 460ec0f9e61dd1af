"""SuperLink is reached by its own user alone, and ends when it is of no use."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from moma_server.config.federation_plan import FederationPlan
from moma_server.federation.engine.superlink import SuperLink
from tests.support.federation.superlink_tree import processes_of, tree_of
from tests.support.federation.world import START_SECONDS, World, longest, wait_for
from tests.support.machine.listening import listening

_NOBODY = 65534
_KNOCK = """
import os, socket, sys
if len(sys.argv) == 3:
    os.setgroups([])
    os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as caller:
    caller.connect(sys.argv[1])
print("connected")
"""


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperLink]:
    superlink = SuperLink(tmp_path_factory.mktemp("superlink"))
    superlink.start()
    yield superlink
    superlink.stop()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def knock(path: Path, *user: int) -> subprocess.CompletedProcess[str]:
    """Connects, as another user if one is given."""
    command = [sys.executable, "-I", "-c", _KNOCK, str(path), *map(str, user)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_superlink_and_what_it_starts_listen_on_no_port(superlink: SuperLink) -> None:
    path = superlink.address.socket
    wait_for(lambda: processes_of(path, "flower-superexec"), START_SECONDS)

    pids, found = tree_of(path), set[object]()
    for pid in pids:
        with suppress(OSError):  # it has ended by now
            found |= listening(pid)

    assert len(pids) >= 2  # SuperLink and its SuperExec
    assert found == set()


def test_another_user_of_the_machine_cannot_reach_superlink(
    superlink: SuperLink,
) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")

    ours = knock(superlink.address.socket)
    theirs = knock(superlink.address.socket, _NOBODY)

    assert ours.stdout == "connected\n"
    assert theirs.stdout == ""
    assert "PermissionError" in theirs.stderr


def test_only_the_owner_enters_the_sockets_folder_and_the_database(
    superlink: SuperLink, tmp_path: Path
) -> None:
    folder = SuperLink(tmp_path / "state")

    modes = [
        path.stat().st_mode & 0o777
        for path in (superlink.address.socket.parent, tmp_path / "state")
    ]
    folder.stop()

    assert modes == [0o700, 0o700]
    assert not folder.address.socket.parent.exists()


@pytest.mark.timeout(900)
def test_a_superexec_that_died_is_replaced_and_the_run_goes_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    plan = FederationPlan(
        rounds=1, quorum=1, poll_seconds=0.1, deadline_seconds=300, close_seconds=120
    )
    coordinator = world.coordinator(plan)
    path = coordinator.engine.socket
    (superexec,) = processes_of(path, "flower-superexec")

    os.kill(superexec, signal.SIGKILL)
    world.admit("site-a")
    world.run_site("site-a", coordinator.port)
    over = coordinator.wait(longest(plan))

    assert over
    assert "SuperExec, which starts the runs, ended" in caplog.text
    wait_for(lambda: world.journal("site-a") != [], seconds=1)
