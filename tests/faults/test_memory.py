"""A client that may not have the memory it wants.

Expected: one sentence and exit code 1, whatever step it was at; no traceback; and with
memory enough the same command takes part in the run.
"""

import logging
from pathlib import Path

import pytest

from tests.support.e2e.aftermath import assert_ended_like
from tests.support.e2e.storm import train_gently, weather
from tests.support.e2e.world import SITES, World
from tests.support.machine.needs import needs_program

_logger = logging.getLogger(__name__)

_RUN_SECONDS = 900.0
_SHORT_SECONDS = 300.0
_MEBIBYTES = (500, 1500, 3000, 4000)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


def test_a_client_without_memory_says_so_and_takes_part_when_it_has_some(
    tmp_path: Path, teacher: Path
) -> None:
    (prlimit,) = needs_program("prlimit")
    worlds = [_world(tmp_path / name, teacher) for name in ("calm", "short")]
    calm, world = worlds
    try:
        assert weather(calm, strikes=0, seed=0, patience=_RUN_SECONDS).is_over
        calm.close()
        servers = world.serve_both()
        for mebibytes in _MEBIBYTES:
            world.prefixes["site-a"] = [f"{prlimit}", f"--as={mebibytes << 20}"]
            short = world.take_part("site-a")
            status = short.status(seconds=_SHORT_SECONDS)
            said = short.said()
            _logger.info("%d MiB: %s, %s", mebibytes, status, said[-300:])
            assert status == 1, said
            assert "there is too little memory" in said.splitlines()[-1]
            assert "Traceback" not in said
        del world.prefixes["site-a"]
        for server in servers:
            server.stopped()
        assert weather(world, strikes=0, seed=0, patience=_RUN_SECONDS).is_over
        assert_ended_like(world, calm)
    finally:
        for each in worlds:
            each.close()


def _world(folder: Path, teacher: Path) -> World:
    plan = {"retries": 50, "asks": 50}
    world = World(folder, teacher, plan=plan, grants=dict.fromkeys(SITES, 10_000))
    train_gently(world)
    return world
