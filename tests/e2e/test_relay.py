"""The installed programs, where the teacher's institution opens no port."""

import base64
import json
from pathlib import Path

import pytest

from moma_core.teacher.card import TeacherCard
from tests.capture import files_holding, memory_holds
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
        _asks_through_the_relay(world, port, coordinator.process.pid)
        assert teaching.stopped() == 0
        until(lambda: links() == {}, seconds=30, what="the end of the link")
        assert coordinator.stopped() == 0
    finally:
        world.close()


def _asks_through_the_relay(world: World, port: int, coordinator: int) -> None:
    """A site asks the golden patch; of what passes, the relay can read nothing."""
    address = f"{LOOPBACK}:{port}"
    world.configure("site-a", teacher={"via": "coordinator", "address": address})
    config = world.folder / "site-a" / "config.yaml"

    looked = ended("moma-client", "doctor", "--site", config, "--ask", "--json")

    found = {one["check"]: one for one in json.loads(looked.stdout)["findings"]}
    assert found["teacher"]["state"] == "ok", looked.stdout + looked.stderr
    assert found["golden"]["state"] == "ok", looked.stdout + looked.stderr
    card = TeacherCard.load(world.folder / "teacher" / "teacher" / "card.json")
    assert card.golden is not None
    row = card.golden.pixels(card.input_size_px)[3].tobytes()
    answer = base64.b64decode(card.golden.embedding)[:32]
    assert not memory_holds(coordinator, row)
    assert not memory_holds(coordinator, answer)
    assert not files_holding(world.folder / "coordinator", row)
