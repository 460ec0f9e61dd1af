"""Two replicas of a teacher are stopped and started in turn while sites ask.

A stop is the operator's, in good order: what was taken is answered, nothing is asked a
second time, and no site's program ends or says more than that it tries again.
"""

import logging
import signal
from pathlib import Path

import pytest

from tests.support.e2e.aftermath import (
    assert_nothing_lost_or_charged_twice,
    last_words,
)
from tests.support.e2e.programs import LOOPBACK, Program, until
from tests.support.e2e.sums import TeachersWord
from tests.support.e2e.world import SITES, World
from tests.support.machine.ports import free_port

_logger = logging.getLogger(__name__)

_RUN_SECONDS = 900.0
_LINKED = "linked to the relay"

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


def test_replicas_that_are_restarted_in_turn_fail_and_repeat_no_query(
    tmp_path: Path, teacher: Path, count: int
) -> None:
    world = _world(tmp_path, teacher, rounds=max(6, count))
    try:
        world.serve("coordinator").shows("moma_federation_sites{")
        replicas = [_linked(world, number) for number in (0, 1)]
        sites = [world.take_part(site) for site in SITES]
        restarts, most = 0, max(2, count // 2)
        while any(site.process.poll() is None for site in sites) and restarts < most:
            _until_asked(world, replicas[restarts % 2], sites)
            stopped = replicas[restarts % 2].stopped(signal.SIGTERM)
            assert stopped == 0, last_words(world)
            replicas[restarts % 2] = _linked(world, restarts % 2)
            restarts += 1
        ended = [site.status(seconds=_RUN_SECONDS) for site in sites]

        _logger.info("%d restarts", restarts)
        assert ended == [0, 0], last_words(world)
        assert restarts > 1
        assert_nothing_lost_or_charged_twice(world)
        entries = TeachersWord.of(world).entries
        assert {entry.outcome for entry in entries} == {"answered"}
        assert not any(entry.repetition for entry in entries)
        for log in world.folder.glob("*.log"):
            assert "Traceback" not in log.read_text("utf-8", "replace"), log.name
    finally:
        world.close()


def _world(folder: Path, teacher: Path, *, rounds: int) -> World:
    plan = {"rounds": rounds, "retries": 5, "deadline_seconds": 900}
    world = World(folder, teacher, plan=plan, grants=dict.fromkeys(SITES, 100_000))
    relay = free_port()
    address = f"{LOOPBACK}:{relay}"
    listen = {"listen": {"host": LOOPBACK, "port": relay}}
    world.configure("coordinator", coordinator={"relay": listen})
    world.configure(
        "teacher", teacher={"listen": None, "relay": {"coordinator": address}}
    )
    relayed = {"views": 0, "via": "coordinator", "address": address}
    for site in SITES:
        world.configure(site, teacher=relayed)
    return world


def _linked(world: World, number: int) -> Program:
    replica = world.serve_replica(number)
    until(
        lambda: _LINKED in replica.said() or replica.process.poll() is not None,
        seconds=_RUN_SECONDS,
        what="the replica is linked",
    )
    assert replica.process.poll() is None, replica.said()[-2000:]
    return replica


def _until_asked(world: World, replica: Program, sites: list[Program]) -> None:
    """Waits until a replica works for somebody, or the run is over."""
    until(
        lambda: (
            replica.metric("moma_teacher_batch_size_count") > 0
            or all(site.process.poll() is not None for site in sites)
        ),
        seconds=_RUN_SECONDS,
        what=f"the replica is asked\n{last_words(world)}",
    )
