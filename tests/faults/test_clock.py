"""One party after another starts with a wrong clock, and then with the right one.

Needs libfaketime (Debian: `faketime`). It cannot move the clock of a process that runs:
sleeps fail under it. So a party is killed, and started again in another time.
"""

import logging
import re
import socket
import time
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random

import pytest

from moma_core.audit.log import MOST_AHEAD
from moma_server.state import open_ledger
from tests.support.e2e.aftermath import assert_ended_like, last_words
from tests.support.e2e.programs import LOOPBACK
from tests.support.e2e.storm import Keeper, train_gently, weather
from tests.support.e2e.sums import said
from tests.support.e2e.world import SITES, World

_logger = logging.getLogger(__name__)

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
_OFFSETS = ("+1h", "-1h", "+1d", "-1d", "+366d", "-366d")
# a traceback whose last line of code is a sleep
_FAILED_SLEEP = re.compile(
    r"^Traceback(?:(?!^Traceback).)*?^    time\.sleep\([^\n]*\)\n(?: +\^+\n)?"
    r"OSError: \[Errno 22\] Invalid argument\n",
    re.MULTILINE | re.DOTALL,
)
_RUN_SECONDS = 900.0
_LONGEST_START_SECONDS = 20.0  # with a wrong clock; some refuse to start by it
_LONGEST_OFFSET_SECONDS = 6.0  # from then on
_LONGEST_PAUSE_SECONDS = 4.0

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not _LIBRARIES, reason="libfaketime is not installed"),
]


def test_a_run_ends_well_though_clocks_were_wrong_by_up_to_a_year(
    tmp_path: Path, teacher: Path, count: int, seed: int
) -> None:
    rounds = max(2, count // 6)
    calm = _world(tmp_path / "calm", teacher, rounds)
    try:
        assert weather(calm, strikes=0, seed=0, patience=_RUN_SECONDS).is_over
    finally:
        calm.close()
    world = _world(tmp_path / "jumping", teacher, rounds)
    chance = Random(seed)
    try:
        keeper = Keeper(world)
        for _ in range(count):
            keeper.watch(chance.uniform(0.1, _LONGEST_PAUSE_SECONDS))
            name = chance.choice(("coordinator", "teacher", *SITES))
            offset = chance.choice(_OFFSETS)
            world.environments[name] = {
                "LD_PRELOAD": str(_LIBRARIES[0]),
                "FAKETIME": offset,
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
            keeper.kill(name)
            keeper.watch(_LONGEST_START_SECONDS, until=partial(_serves, world, name))
            keeper.watch(chance.uniform(1.0, _LONGEST_OFFSET_SECONDS))
            del world.environments[name]
            keeper.kill(name)
            if name == "teacher":
                _begin_another_log_if_it_is_dated_ahead(world)
            if keeper.storm.is_over:
                break
        keeper.finish(_RUN_SECONDS)
        _logger.info("%s", keeper.storm)
        assert keeper.storm.is_over, last_words(world)
        _forget_faults_of_the_tool(world)
        assert_ended_like(world, calm)
    finally:
        world.close()


def _serves(world: World, name: str) -> bool:
    """Whether a party listens: a server for its callers, a site for its metrics."""
    port = {"coordinator": "edge", "teacher": "teach"}.get(name, name)
    with suppress(OSError), socket.create_connection((LOOPBACK, world.ports[port]), 1):
        return True
    return False


def _begin_another_log_if_it_is_dated_ahead(world: World) -> None:
    """Does what the teacher then asks of its operator.

    While its own certificate is over, as by a clock that is a year ahead, it dates
    nothing.
    """
    config = world.teacher_config()
    assert config.teacher is not None
    with open_ledger(config, config.teacher) as ledger:
        newest_ms = ledger.read(ledger.log.latest).time_ms
    ahead = timedelta(milliseconds=newest_ms) - timedelta(seconds=time.time())
    assert ahead < timedelta(days=2)
    if ahead > MOST_AHEAD:
        config_file = world.folder / "teacher" / "server.yaml"
        said("moma-server", "audit", "rotate", "--config", config_file)
        _logger.info("the log was dated %s ahead: another one was begun", ahead)


def _forget_faults_of_the_tool(world: World) -> None:
    """Takes out of the logs what libfaketime did, and no clock would do.

    It fails a sleep whose end has passed when it comes to it, as on a busy machine.
    """
    for log in world.folder.glob("*.log"):
        log.write_text(_FAILED_SLEEP.sub("", log.read_text("utf-8", "replace")))


def _world(folder: Path, teacher: Path, rounds: int) -> World:
    plan = {"rounds": rounds, "retries": 50, "asks": 50}
    world = World(folder, teacher, plan=plan, grants=dict.fromkeys(SITES, 100_000))
    for site in SITES:
        world.configure(site, teacher={"views": 2})
    train_gently(world)
    return world
