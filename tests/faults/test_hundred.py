"""One run, and faults of every kind over it: processes, links, the teacher's database.

`make test-faults COUNT=100 SEED=7 ONLY=hundred`. One site asks at every step, the other
keeps a teacher cache and asks by the relay; the teacher's budget and log lie in a
PostgreSQL.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.support.e2e.aftermath import assert_ended_like, last_words
from tests.support.e2e.links import LINK_FAULTS, disturb, kept, on_wires
from tests.support.e2e.storm import Keeper, train_gently, weather
from tests.support.e2e.world import SITES, World
from tests.support.machine.cuttable import Wire
from tests.support.machine.postgresql import DatabaseServer, database_server

_logger = logging.getLogger(__name__)

_FAULTS_A_ROUND = 4
_RUN_SECONDS = 900.0  # from the last fault to the end, on a busy machine
_LONGEST_PAUSE_SECONDS = 4.0
_LONGEST_SECONDS = 4.0  # of a link that is held or slow
_LONGEST_AWAY_SECONDS = 4.0  # of the database
_KINDS = ("process", "process", "process", "link", "link", "database")

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


def test_a_hundred_faults_of_every_kind_lose_and_double_nothing(
    tmp_path: Path, teacher: Path, count: int, seed: int
) -> None:
    rounds = max(2, count // _FAULTS_A_ROUND)
    with _world(tmp_path / "calm", teacher, rounds) as (calm, _):
        assert weather(calm, strikes=0, seed=0, patience=_RUN_SECONDS).is_over
    chance, done = Random(seed), Counter[str]()
    with (
        _world(tmp_path / "struck", teacher, rounds) as (world, database),
        on_wires(world) as wires,
        kept(world) as keeper,
    ):
        while done.total() < count and not keeper.storm.is_over:
            keeper.watch(chance.uniform(0.1, _LONGEST_PAUSE_SECONDS))
            done[_strike(chance, keeper, wires, database)] += 1
        keeper.finish(_RUN_SECONDS)

        _logger.info("%d faults: %s; %s", done.total(), dict(done), keeper.storm)
        assert keeper.storm.is_over, last_words(world)
        assert_ended_like(world, calm)


def _strike(
    chance: Random, keeper: Keeper, wires: dict[str, Wire], database: DatabaseServer
) -> str:
    """Does one thing by chance; returns what it was."""
    kind = chance.choice(_KINDS)
    if kind == "process":
        keeper.strike(chance)
        return kind
    if kind == "link":
        name, fault = chance.choice(sorted(wires)), chance.choice(LINK_FAULTS)
        disturb(wires[name], fault, chance, keeper, longest_seconds=_LONGEST_SECONDS)
        return f"{fault}: {name}"
    database.kill()
    keeper.watch(chance.uniform(0.1, _LONGEST_AWAY_SECONDS))
    database.start()
    return kind


@contextmanager
def _world(
    folder: Path, teacher: Path, rounds: int
) -> Iterator[tuple[World, DatabaseServer]]:
    """Makes a world whose teacher keeps its ledger on a server."""
    plan = {"rounds": rounds, "retries": 100, "asks": 100, "deadline_seconds": 240}
    with ExitStack() as stack:
        database = stack.enter_context(database_server())
        world = World(folder, teacher, plan=plan, grants=dict.fromkeys(SITES, 200_000))
        stack.callback(world.close)
        world.configure(
            "teacher",
            teacher={
                "database": database.url,
                "abandoned_after_seconds": 5,
                "checkpoint_seconds": 1,
            },
        )
        for site, views in zip(SITES, (0, 2), strict=True):
            world.configure(site, teacher={"views": views})
        train_gently(world)
        yield world, database
