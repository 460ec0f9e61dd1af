"""The installed programs, where the teacher's institution opens no port."""

import json
from pathlib import Path

import pytest

from tests.e2e.programs import LOOPBACK, ended, until
from tests.e2e.world import TEACHER, World, make_tiny_teacher
from tests.listening import listening


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    make_tiny_teacher(tmp_path / "made")
    return tmp_path / "made"


def test_a_teacher_without_a_port_links_to_its_coordinator(
    tmp_path: Path, teacher: Path
) -> None:
    world = World(tmp_path / "world", teacher)
    port = world.free_port()
    relay = {"listen": {"host": LOOPBACK, "port": port}}
    world.configure("coordinator", coordinator={"relay": relay})
    link = {"coordinator": f"{LOOPBACK}:{port}"}
    world.configure("teacher", teacher={"listen": None, "relay": link})
    config = world.folder / "coordinator" / "server.yaml"

    def links() -> object:
        looked = ended("moma-server", "status", "--config", config, "--json")
        return json.loads(looked.stdout)["relay_links"]

    try:
        coordinator, teaching = world.serve_both()
        until(lambda: links() == {TEACHER: 1}, seconds=60, what="the link")
        shown = ended("moma-server", "status", "--config", config).stdout
        at = listening(teaching.process.pid)

        assert f"teachers linked to the relay: {TEACHER} (1)" in shown
        assert [port for _, port in at] == [world.ports["teacher"]]  # its metrics
        assert all(address.is_loopback for address, _ in at)
        assert teaching.stopped() == 0
        until(lambda: links() == {}, seconds=30, what="the end of the link")
        assert coordinator.stopped() == 0
    finally:
        world.close()
