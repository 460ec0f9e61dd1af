"""The clock of one party after another jumps, there and back; the run ends well.

Needs libfaketime (Debian: `faketime`), which reads each process's offset from a file.
"""

import logging
from pathlib import Path
from random import Random

import pytest

from tests.support.e2e.aftermath import assert_ended_like, last_words
from tests.support.e2e.storm import Keeper, weather
from tests.support.e2e.world import SITES, World

_logger = logging.getLogger(__name__)

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
_JUMPS = ("+3600", "-3600", "+86400", "-86400", "+31622400", "-31622400")  # seconds
_RUN_SECONDS = 900.0
_LONGEST_JUMP_SECONDS = 8.0
_LONGEST_PAUSE_SECONDS = 4.0

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not _LIBRARIES, reason="libfaketime is not installed"),
]


def test_a_run_ends_well_whose_clocks_jumped_by_hours_days_and_a_year(
    tmp_path: Path, teacher: Path, count: int, seed: int
) -> None:
    rounds = max(2, count // 6)
    calm = _world(tmp_path / "calm", teacher, rounds)
    try:
        assert weather(calm, strikes=0, seed=0, patience=_RUN_SECONDS).is_over
    finally:
        calm.close()
    world = _world(tmp_path / "jumping", teacher, rounds)
    clocks = _clocks(world, tmp_path)
    chance = Random(seed)
    try:
        keeper = Keeper(world)
        for _ in range(count):
            keeper.watch(chance.uniform(0.1, _LONGEST_PAUSE_SECONDS))
            clock = clocks[chance.choice(sorted(clocks))]
            clock.write_text(chance.choice(_JUMPS) + "\n")
            keeper.watch(chance.uniform(0.5, _LONGEST_JUMP_SECONDS))
            clock.write_text("+0\n")
            if keeper.storm.is_over:
                break
        keeper.watch(_RUN_SECONDS)
        _logger.info("%s", keeper.storm)
        assert keeper.storm.is_over, last_words(world)
        assert_ended_like(world, calm)
    finally:
        world.close()


def _world(folder: Path, teacher: Path, rounds: int) -> World:
    plan = {"rounds": rounds, "retries": 50, "asks": 50}
    world = World(folder, teacher, plan=plan, grants=dict.fromkeys(SITES, 100_000))
    for site in SITES:
        world.configure(site, teacher={"views": 2})
    return world


def _clocks(world: World, folder: Path) -> dict[str, Path]:
    """Gives each program a clock of its own; returns the file that sets it, by name."""
    clocks = {
        name: folder / f"{name}.clock" for name in ("coordinator", "teacher", *SITES)
    }
    for name, clock in clocks.items():
        clock.write_text("+0\n")
        world.environments[name] = {
            "LD_PRELOAD": str(_LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    return clocks
