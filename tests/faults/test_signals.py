"""Processes are killed, stopped and held at random moments; the run ends as it should.

`make test-faults` runs this, `make test-faults COUNT=100 SEED=7 MODE=cached` one mode.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.e2e.aftermath import assert_ended_like, last_words
from tests.support.e2e.storm import Storm, train_gently, weather
from tests.support.e2e.world import World

_logger = logging.getLogger(__name__)

_STRIKES_A_ROUND = 5
_RUN_SECONDS = 900.0  # from the last fault to the end, on a busy machine
_GRANT = 200_000
_MODES: Mapping[str, Mapping[str, Any]] = {
    "cached": {"teacher": {"views": 2}},
    "asked-at-every-step": {"teacher": {"views": 0}},
    "averaged": {"plan": {"mode": "fedavg"}, "teacher": {"views": 2}},
    "momentum": {"teacher": {"mode": "momentum", "weights_may_leave": True}},
}

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What is there when the run is over.

    Args:
        world: Its files; the servers serve.
        storm: What was done.
    """

    world: World
    storm: Storm


@pytest.fixture(params=sorted(_MODES))
def aftermath(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    teacher: Path,
    count: int,
    seed: int,
) -> Iterator[Aftermath]:
    """A run in one mode, in the weather that the command line asks for."""
    world = _world(tmp_path / "struck", teacher, request.param, count)
    try:
        storm = weather(world, strikes=count, seed=seed, patience=_RUN_SECONDS)
        _logger.info("%s: %s", request.param, storm)
        yield Aftermath(world, storm)
    finally:
        world.close()


@pytest.fixture
def undisturbed(
    request: pytest.FixtureRequest, tmp_path: Path, teacher: Path, count: int
) -> Iterator[World]:
    """The same run, in good weather."""
    mode = request.node.callspec.params["aftermath"]
    world = _world(tmp_path / "calm", teacher, mode, count)
    try:
        calm = weather(world, strikes=0, seed=0, patience=_RUN_SECONDS)
        assert calm.is_over
        yield world
    finally:
        world.close()


def test_a_run_ends_as_if_nobody_had_been_struck(
    aftermath: Aftermath, undisturbed: World
) -> None:
    world, storm = aftermath.world, aftermath.storm
    assert storm.is_over, last_words(world)
    assert_ended_like(world, undisturbed)


def _world(folder: Path, teacher: Path, mode: str, count: int) -> World:
    settings = _MODES[mode]
    plan = {
        "rounds": max(2, count // _STRIKES_A_ROUND),
        "retries": 50,
        "asks": 50,
        "deadline_seconds": 240,
        **settings.get("plan", {}),
    }
    sites = ("site-a", "site-b")
    world = World(folder, teacher, plan=plan, grants=dict.fromkeys(sites, _GRANT))
    world.configure(
        "teacher",
        teacher={
            "abandoned_after_seconds": 5,
            "checkpoint_seconds": 1,
            "momentum": {"enabled": True},
        },
    )
    for site in sites:
        world.configure(site, teacher=settings["teacher"])
    if plan.get("mode") == "fedavg":
        for site in sites:
            world.configure(site, coordinator={"weights_may_leave": True})
    train_gently(world)
    if mode == "momentum":  # a teacher that moves has no cache
        for site in sites:
            for key in ("views", "cache_precision"):
                world.remove(site, "teacher", key)
    return world
