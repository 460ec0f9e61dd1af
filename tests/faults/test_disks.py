"""The disk under one party fills up in a run, and has room again after a while.

Expected: a sentence in that party's log and no traceback; what ended is started again,
and the run ends as if nothing had been, with no query lost or charged twice.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.e2e.aftermath import assert_ended_like, last_words
from tests.support.e2e.links import kept, until_asked
from tests.support.e2e.storm import in_peace, train_gently
from tests.support.e2e.world import SITES, World
from tests.support.machine.disks import fill, small_disk

_RUN_SECONDS = 900.0
_FULL_SECONDS = 15.0
_LOOKS = 15
_KIBIBYTES = 256 * 1024

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Iterator[World]:
    world = _world(tmp_path_factory.mktemp("disks") / "calm", teacher)
    with in_peace(world, patience=_RUN_SECONDS):
        yield world


@pytest.mark.parametrize("party", ["coordinator", "teacher", SITES[0]])
def test_a_disk_that_is_full_for_a_while_costs_time_alone(
    tmp_path: Path, teacher: Path, calm: World, party: str
) -> None:
    world = _world(tmp_path, teacher)
    with _on_a_small_disk(world, party) as disk, kept(world) as keeper:
        until_asked(world, keeper, seconds=_RUN_SECONDS)
        for _ in range(_LOOKS):  # what ends gives some room back
            filler = fill(disk)
            keeper.watch(_FULL_SECONDS / _LOOKS)
        filler.unlink()
        keeper.finish(_RUN_SECONDS)

        assert keeper.storm.is_over, last_words(world)
        assert_ended_like(world, calm)


@contextmanager
def _on_a_small_disk(world: World, party: str) -> Iterator[Path]:
    """Moves a party's state onto a disk of its own."""
    state = world.folder / party / "state"
    state.mkdir(mode=0o700, exist_ok=True)  # a site makes it when it starts
    before = state.rename(state.with_name("state-before"))
    with small_disk(state, _KIBIBYTES) as disk:
        shutil.copytree(before, disk, dirs_exist_ok=True)
        yield disk


def _world(folder: Path, teacher: Path) -> World:
    plan = {"rounds": 4, "retries": 50, "asks": 50, "deadline_seconds": 300}
    world = World(folder, teacher, plan=plan, grants=dict.fromkeys(SITES, 100_000))
    world.configure(
        "teacher", teacher={"abandoned_after_seconds": 5, "checkpoint_seconds": 1}
    )
    for site in SITES:
        world.configure(site, teacher={"views": 0})
    train_gently(world)
    return world
