"""Every link of a run is cut, reset, held and slowed at random; the run ends well."""

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.support.e2e.aftermath import assert_ended_like, last_words
from tests.support.e2e.programs import LOOPBACK
from tests.support.e2e.storm import Keeper, weather
from tests.support.e2e.world import SITES, World
from tests.support.machine.cuttable import Wire, cuttable
from tests.support.machine.ports import free_port

_logger = logging.getLogger(__name__)

_RUN_SECONDS = 900.0
_SILENT_SECONDS = 370.0  # longer than any connection may be idle by default
_LONGEST_PAUSE_SECONDS = 4.0
_DELAYS_SECONDS = (0.1, 1.0)
_LONGEST_SLOW_SECONDS = 8.0
_FAULTS = ("cut", "reset", "hold", "slow")

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


def test_a_run_over_bad_links_ends_like_one_over_good_links(
    tmp_path: Path, teacher: Path, count: int, seed: int
) -> None:
    calm = _calm(tmp_path / "calm", teacher, rounds=_rounds(count))
    world = _world(tmp_path / "bad", teacher, rounds=_rounds(count))
    chance, done = Random(seed), Counter[tuple[str, str]]()
    with _on_wires(world) as wires, _kept(world) as keeper:
        for _ in range(count):
            keeper.watch(chance.uniform(0.1, _LONGEST_PAUSE_SECONDS))
            if keeper.storm.is_over:
                break
            name, fault = chance.choice(sorted(wires)), chance.choice(_FAULTS)
            _disturb(wires[name], fault, chance, keeper)
            done[name, fault] += 1
        keeper.watch(_RUN_SECONDS)
        _logger.info("%s; %s", dict(done), keeper.storm)
        assert keeper.storm.is_over, last_words(world)
        assert_ended_like(world, calm)


def test_six_minutes_of_silence_do_not_end_a_run(tmp_path: Path, teacher: Path) -> None:
    calm = _calm(tmp_path / "calm", teacher, rounds=2)
    world = _world(tmp_path / "silent", teacher, rounds=2)
    with _on_wires(world) as wires, _kept(world) as keeper:
        _until_asked(world, keeper)
        for wire in wires.values():
            wire.flows.clear()
        keeper.watch(_SILENT_SECONDS)
        for wire in wires.values():
            wire.flows.set()
        keeper.watch(_RUN_SECONDS)
        _logger.info("%s", keeper.storm)
        assert keeper.storm.is_over, last_words(world)
        assert_ended_like(world, calm)


def _disturb(wire: Wire, fault: str, chance: Random, keeper: Keeper) -> None:
    lasts = chance.uniform(0.2, _LONGEST_SLOW_SECONDS)
    if fault == "cut":
        wire.cut()
    elif fault == "reset":
        wire.reset()
    elif fault == "hold":
        wire.flows.clear()
        keeper.watch(lasts)
        wire.flows.set()
    else:
        wire.delay_seconds = chance.choice(_DELAYS_SECONDS)
        keeper.watch(lasts)
        wire.delay_seconds = 0.0


def _rounds(count: int) -> int:
    return max(2, count // 6)


def _world(folder: Path, teacher: Path, *, rounds: int) -> World:
    """Returns a world where one site asks at every step, the other by the relay."""
    plan = {"rounds": rounds, "retries": 50, "asks": 50, "deadline_seconds": 900}
    world = World(folder, teacher, plan=plan, grants=dict.fromkeys(SITES, 100_000))
    for site in SITES:
        world.configure(site, teacher={"views": 0})
    return world


def _calm(folder: Path, teacher: Path, *, rounds: int) -> World:
    world = _world(folder, teacher, rounds=rounds)
    try:
        assert weather(world, strikes=0, seed=0, patience=_RUN_SECONDS).is_over
    finally:
        world.close()
    return world


@contextmanager
def _on_wires(world: World) -> Iterator[dict[str, Wire]]:
    """Puts a wire into each link between two parties, by the link's name."""
    relay = free_port()
    listen = {"listen": {"host": LOOPBACK, "port": relay}}
    world.configure("coordinator", coordinator={"relay": listen})
    ends = {
        "site-a to coordinator": world.ports["edge"],
        "site-b to coordinator": world.ports["edge"],
        "site-a to teacher": world.ports["teach"],
        "site-b to relay": relay,
        "teacher to relay": relay,
    }
    with ExitStack() as stack:
        wires = {
            name: stack.enter_context(cuttable(port)) for name, port in ends.items()
        }
        at = {name: f"{LOOPBACK}:{wire.entrance}" for name, wire in wires.items()}
        for site in SITES:
            address = at[f"{site} to coordinator"]
            world.configure(site, coordinator={"address": address})
        world.configure("site-a", teacher={"address": at["site-a to teacher"]})
        relayed = {"via": "coordinator", "address": at["site-b to relay"]}
        world.configure("site-b", teacher=relayed)
        dialled = {"relay": {"coordinator": at["teacher to relay"]}}
        world.configure("teacher", teacher=dialled)
        yield wires


@contextmanager
def _kept(world: World) -> Iterator[Keeper]:
    try:
        yield Keeper(world)
    finally:
        world.close()


def _until_asked(world: World, keeper: Keeper) -> None:
    """Waits until both sites have asked something."""
    deadline = time.monotonic() + _RUN_SECONDS
    while not all(
        any((world.folder / site / "state").glob("receipts/**/*.jsonl"))
        for site in SITES
    ):
        assert time.monotonic() < deadline, last_words(world)
        keeper.watch(0.2)
