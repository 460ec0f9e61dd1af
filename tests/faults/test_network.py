"""Every link of a run is cut, reset, held and slowed at random; the run ends well."""

import logging
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.support.e2e.aftermath import assert_ended_like, last_words
from tests.support.e2e.links import LINK_FAULTS, disturb, kept, on_wires, until_asked
from tests.support.e2e.storm import train_gently, weather
from tests.support.e2e.world import SITES, World

_logger = logging.getLogger(__name__)

_RUN_SECONDS = 900.0
_SILENT_SECONDS = 370.0  # longer than any connection may be idle by default
_LONGEST_PAUSE_SECONDS = 4.0
_LONGEST = 8.0  # seconds that a link is held or slow

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


def test_a_run_over_bad_links_ends_like_one_over_good_links(
    tmp_path: Path, teacher: Path, count: int, seed: int
) -> None:
    calm = _calm(tmp_path / "calm", teacher, rounds=_rounds(count))
    world = _world(tmp_path / "bad", teacher, rounds=_rounds(count))
    chance, done = Random(seed), Counter[tuple[str, str]]()
    with on_wires(world) as wires, kept(world) as keeper:
        for _ in range(count):
            keeper.watch(chance.uniform(0.1, _LONGEST_PAUSE_SECONDS))
            if keeper.storm.is_over:
                break
            name, fault = chance.choice(sorted(wires)), chance.choice(LINK_FAULTS)
            disturb(wires[name], fault, chance, keeper, longest_seconds=_LONGEST)
            done[name, fault] += 1
        keeper.finish(_RUN_SECONDS)
        _logger.info("%s; %s", dict(done), keeper.storm)
        assert keeper.storm.is_over, last_words(world)
        assert_ended_like(world, calm)


def test_six_minutes_of_silence_do_not_end_a_run(tmp_path: Path, teacher: Path) -> None:
    calm = _calm(tmp_path / "calm", teacher, rounds=2)
    world = _world(tmp_path / "silent", teacher, rounds=2)
    with on_wires(world) as wires, kept(world) as keeper:
        until_asked(world, keeper, seconds=_RUN_SECONDS)
        for wire in wires.values():
            wire.flows.clear()
        keeper.watch(_SILENT_SECONDS)
        for wire in wires.values():
            wire.flows.set()
        keeper.finish(_RUN_SECONDS)
        _logger.info("%s", keeper.storm)
        assert keeper.storm.is_over, last_words(world)
        assert_ended_like(world, calm)


def _rounds(count: int) -> int:
    return max(2, count // 6)


def _world(folder: Path, teacher: Path, *, rounds: int) -> World:
    """Returns a world where one site asks at every step, the other by the relay."""
    plan = {"rounds": rounds, "retries": 50, "asks": 50, "deadline_seconds": 900}
    world = World(folder, teacher, plan=plan, grants=dict.fromkeys(SITES, 100_000))
    for site in SITES:
        world.configure(site, teacher={"views": 0})
    train_gently(world)
    return world


def _calm(folder: Path, teacher: Path, *, rounds: int) -> World:
    world = _world(folder, teacher, rounds=rounds)
    try:
        assert weather(world, strikes=0, seed=0, patience=_RUN_SECONDS).is_over
    finally:
        world.close()
    return world
