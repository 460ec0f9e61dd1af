"""One party has too little memory for a while: the kernel kills what goes beyond.

Expected: what was killed is started again, by the keeper or by its own parent, as often
as it takes; when there is memory again, the run ends as if nothing had been, with no
query lost or charged twice.
"""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.e2e.aftermath import assert_ended_like, last_words
from tests.support.e2e.links import kept, until_asked
from tests.support.e2e.storm import Keeper, in_peace, train_gently
from tests.support.e2e.world import SITES, World
from tests.support.machine.memory import MemoryGroup, memory_group

_logger = logging.getLogger(__name__)

_RUN_SECONDS = 900.0
_SHORT_SECONDS = 90.0  # where all that is needed fits after all
_KILLS = 2
_SHARES = (0.3, 0.7)  # of what the party takes in peace: as it loads, as it works

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Iterator[World]:
    world = _world(tmp_path_factory.mktemp("memory") / "calm", teacher)
    with in_peace(world, patience=_RUN_SECONDS):
        yield world


@pytest.mark.parametrize("party", ["coordinator", "teacher", SITES[0]])
def test_too_little_memory_for_a_while_costs_time_alone(
    tmp_path: Path, teacher: Path, calm: World, party: str
) -> None:
    with memory_group() as group:
        world = _world(tmp_path, teacher)
        _confine(world, party, group)
        with kept(world) as keeper:
            until_asked(world, keeper, seconds=_RUN_SECONDS)
            whole = group.peak_bytes()
            for share in _SHARES:
                _squeeze(keeper, party, group, int(share * whole))
            keeper.finish(_RUN_SECONDS)

            _logger.info("%s: %d kills, %s", party, group.kills(), keeper.storm)
            assert keeper.storm.is_over, last_words(world)
            assert group.kills() >= 1
            assert_ended_like(world, calm)


def _squeeze(keeper: Keeper, party: str, group: MemoryGroup, most_bytes: int) -> None:
    """Starts a party anew with less memory than it needs, and then gives it enough."""
    keeper.kill(party)
    before = group.kills()
    group.limit(most_bytes)
    deadline = time.monotonic() + _SHORT_SECONDS
    while group.kills() < before + _KILLS and time.monotonic() < deadline:
        keeper.watch(1.0)
    group.limit(None)


def _confine(world: World, party: str, group: MemoryGroup) -> None:
    """Has each process of a party begin in the group."""
    world.on_start[party] = lambda program: group.take(program.process.pid)


def _world(folder: Path, teacher: Path) -> World:
    plan = {"rounds": 4, "retries": 50, "asks": 50, "deadline_seconds": 300}
    world = World(folder, teacher, plan=plan, grants=dict.fromkeys(SITES, 100_000))
    for site in SITES:
        world.configure(site, teacher={"views": 0})
    train_gently(world)
    return world
