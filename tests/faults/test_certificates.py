"""Certificates that end in a run, and a coordinator that is away as they are renewed.

Expected: each member renews at two thirds of a certificate's life, or as soon as after
that the coordinator is back; the run goes on with the new ones, nothing else changes.
"""

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from moma_core.pki.certificates import life
from tests.support.e2e.aftermath import assert_ended_like, last_words
from tests.support.e2e.links import kept
from tests.support.e2e.storm import train_gently, weather
from tests.support.e2e.world import SITES, World

_logger = logging.getLogger(__name__)

_LIFE_SECONDS = 150.0
_LATER_HOURS = 720.0  # of those that follow: they are for who looks afterwards
_ROUNDS = 16
_POLL_SECONDS = 8.0  # a round takes no less
_AWAY_SECONDS = 25.0  # from just before the time of the renewal
_RUN_SECONDS = 1200.0
_MEMBERS = ("teacher", *SITES)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


def test_a_run_outlives_its_certificates_though_the_coordinator_was_away(
    tmp_path: Path, teacher: Path
) -> None:
    calm = _world(tmp_path / "calm", teacher, hours=_LATER_HOURS, poll_seconds=0.3)
    try:
        assert weather(calm, strikes=0, seed=0, patience=_RUN_SECONDS).is_over
    finally:
        calm.close()
    hours = _LIFE_SECONDS / 3600
    world = _world(tmp_path / "short", teacher, hours=hours, poll_seconds=_POLL_SECONDS)
    first = {member: _ends(world, member) for member in _MEMBERS}
    with kept(world) as keeper:
        renewal = min(first.values()) - _LIFE_SECONDS / 3
        keeper.watch(renewal - 5 - datetime.now(UTC).timestamp())
        assert not keeper.storm.is_over, "it ended before anything was to be renewed"
        with keeper.halted("coordinator"):
            keeper.watch(_AWAY_SECONDS)
        later = {"certificate_hours": _LATER_HOURS}
        world.configure("coordinator", coordinator=later)
        keeper.kill("coordinator")
        keeper.finish(_RUN_SECONDS)

        _logger.info("%s; life %s", keeper.storm, first)
        assert keeper.storm.is_over, last_words(world)
        assert datetime.now(UTC).timestamp() > max(first.values())
        for member, before in first.items():
            assert _ends(world, member) > before + _LIFE_SECONDS, member
        assert keeper.storm.starts["teacher"] == 1  # it never ended
        assert_ended_like(world, calm)


def _world(folder: Path, teacher: Path, *, hours: float, poll_seconds: float) -> World:
    plan = {
        "rounds": _ROUNDS,
        "poll_seconds": poll_seconds,
        "retries": 50,
        "asks": 50,
        "deadline_seconds": 900,
    }
    world = World(
        folder,
        teacher,
        plan=plan,
        grants=dict.fromkeys(SITES, 100_000),
        certificate_hours=hours,
    )
    train_gently(world)
    return world


def _ends(world: World, member: str) -> float:
    """Returns when a member's certificate ends, in seconds since 1970."""
    name = "teacher.pem" if member == "teacher" else "site.pem"
    path = world.folder / member / name
    return life(path.read_bytes())[1].timestamp()
