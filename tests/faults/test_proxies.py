"""Proxies as they fail: 502, a bound on what a tunnel carries, a name that leads wrong.

Expected: a site says what it met and tries again, or ends with that sentence and is
started again; the run ends as if nothing had been.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.support.e2e.aftermath import assert_ended_like, last_words
from tests.support.e2e.links import kept
from tests.support.e2e.programs import LOOPBACK
from tests.support.e2e.storm import Keeper, train_gently, weather
from tests.support.e2e.world import SITES, World
from tests.support.machine.connect_proxy import ConnectProxy, connect_proxy

_logger = logging.getLogger(__name__)

_RUN_SECONDS = 900.0
_LONGEST_SECONDS = 6.0
_TUNNEL_BYTES = 200_000  # some rounds of the edge, one or two batches of patches
_FAULTS = ("502 Bad Gateway", "503 Service Unavailable", "bound", "wrong name")

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


def test_a_run_behind_proxies_that_fail_ends_like_one_without(
    tmp_path: Path, teacher: Path, count: int, seed: int
) -> None:
    rounds = max(2, count // 8)
    calm = _world(tmp_path / "calm", teacher, rounds)
    try:
        assert weather(calm, strikes=0, seed=0, patience=_RUN_SECONDS).is_over
    finally:
        calm.close()
    world = _world(tmp_path / "behind", teacher, rounds)
    chance, done = Random(seed), Counter[str]()
    with _behind_proxies(world) as proxies, kept(world) as keeper:
        while done.total() < count and not keeper.storm.is_over:
            keeper.watch(chance.uniform(0.1, _LONGEST_SECONDS))
            fault = chance.choice(_FAULTS)
            _disturb(chance.choice(proxies), fault, world, keeper, chance)
            done[fault] += 1
        keeper.finish(_RUN_SECONDS)

        _logger.info("%s; %s", dict(done), keeper.storm)
        assert keeper.storm.is_over, last_words(world)
        assert_ended_like(world, calm)


def _disturb(
    proxy: ConnectProxy, fault: str, world: World, keeper: Keeper, chance: Random
) -> None:
    if fault == "bound":
        proxy.most_bytes = _TUNNEL_BYTES
    elif fault == "wrong name":
        names = {name: f"{LOOPBACK}:{world.ports[name]}" for name in ("edge", "teach")}
        proxy.places = {
            names["edge"]: (LOOPBACK, world.ports["teach"]),
            names["teach"]: (LOOPBACK, world.ports["edge"]),
        }
    else:
        proxy.refusal = fault
    proxy.cut()
    keeper.watch(chance.uniform(0.1, _LONGEST_SECONDS))
    proxy.refusal, proxy.places, proxy.most_bytes = None, {}, 0
    proxy.cut()


def _world(folder: Path, teacher: Path, rounds: int) -> World:
    plan = {"rounds": rounds, "retries": 50, "asks": 50, "deadline_seconds": 300}
    world = World(folder, teacher, plan=plan, grants=dict.fromkeys(SITES, 100_000))
    for site in SITES:
        world.configure(site, teacher={"views": 0})
    train_gently(world)
    return world


@contextmanager
def _behind_proxies(world: World) -> Iterator[list[ConnectProxy]]:
    with ExitStack() as stack:
        proxies = [stack.enter_context(connect_proxy()) for _ in SITES]
        for site, proxy in zip(SITES, proxies, strict=True):
            world.configure(site, network={"proxy": proxy.url})
        yield proxies
