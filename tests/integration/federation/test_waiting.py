"""A site that waits is told for what, and one that comes too late that it is over."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moma_client.federation.node import NodeSettings
from moma_client.federation.run_state import look_at_coordinator, request_run_state
from moma_core.errors import FederationError
from moma_core.federation.run_state import RunState
from moma_server.config.federation_plan import FederationPlan
from moma_server.federation.run.state import read_status
from tests.support.federation.world import START_SECONDS, World, longest, wait_for

PLAN = FederationPlan(
    mode="independent",
    rounds=1,
    quorum=2,
    deadline_seconds=60,
    grace_seconds=1,
    close_seconds=10,
    poll_seconds=0.1,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def state_of(settings: NodeSettings) -> RunState | None:
    """Returns what the coordinator says of its run; None while it says nothing."""
    try:
        return request_run_state(settings)
    except FederationError:
        return None  # it is busy, or does not know the site yet


def said(world: World, site: str) -> str:
    path = world.folder / site / "log"
    return path.read_text() if path.exists() else ""


def test_one_site_of_two_is_told_that_it_waits_and_so_is_its_coordinator(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.admit("site-a")
    world.admit("site-b")
    with caplog.at_level(logging.INFO):
        coordinator = world.coordinator(PLAN)
        world.run_site("site-a", coordinator.port)

        sentence = "1 of 2 sites, waiting for 1 (since "
        wait_for(lambda: sentence in said(world, "site-a"), START_SECONDS)

    assert sentence in str(coordinator.status()["waiting"])
    assert any(
        sentence in line and "not connected: site-b" in line for line in caplog.messages
    )
    assert "site-b" not in said(world, "site-a")
    assert not (world.folder / "state" / "order.json").exists(), "no round has begun"
    status = read_status(world.folder / "state")
    assert (status["registered"], status["online"]) == (
        ["site-a", "site-b"],
        ["site-a"],
    )


def test_a_site_that_was_killed_as_its_run_ended_is_told_that_it_is_over(
    world: World,
) -> None:
    plan = PLAN.model_copy(update={"quorum": 1})
    world.admit("site-a")
    coordinator = world.coordinator(plan)
    world.run_site("site-a", coordinator.port)
    wait_for(lambda: coordinator.finished, longest(plan))
    settings = world.settings("site-a", coordinator.port)
    wait_for(lambda: state_of(settings), START_SECONDS)
    world.cut_power("site-a")

    world.run_site("site-a", coordinator.port)

    assert world.sites["site-a"].wait(START_SECONDS) == 0
    assert world.journal("site-a")[-1].startswith("done close")


def test_a_newcomer_to_a_run_that_is_over_does_nothing(world: World) -> None:
    plan = PLAN.model_copy(update={"quorum": 1})
    world.admit("site-a")
    coordinator = world.coordinator(plan)
    world.run_site("site-a", coordinator.port)
    wait_for(lambda: coordinator.finished, longest(plan))
    world.admit("site-b")
    settings = world.settings("site-b", coordinator.port)

    def is_over() -> bool:
        state = state_of(settings)
        return state is not None and state.phase == "over"

    wait_for(is_over, START_SECONDS)
    world.run_site("site-b", coordinator.port)

    assert world.sites["site-b"].wait(START_SECONDS) == 0
    assert world.journal("site-b") == []


def test_a_stranger_is_told_nothing_of_the_run(world: World, tmp_path: Path) -> None:
    world.admit("site-a")
    coordinator = world.coordinator(PLAN)
    stranger = World(tmp_path / "elsewhere")
    stranger.admit("site-x")
    settings = replace(
        world.settings("site-a", coordinator.port),
        node_key=tmp_path / "elsewhere" / "site-x" / "node.key",
    )
    wait_for((tmp_path / "state" / "state.json").exists, START_SECONDS)

    def refusal() -> str:
        try:
            request_run_state(settings)
        except FederationError as error:
            return str(error)
        return ""

    look_at_coordinator(settings)
    heard: list[str] = []
    wait_for(lambda: heard.append(refusal()) or "node key" in heard[-1], START_SECONDS)

    assert "does not serve this site's node key" in heard[-1]


def test_a_coordinator_that_stays_away_is_given_up(world: World) -> None:
    world.admit("site-a")
    world.run_site("site-a", 1)
    waits = "waiting for the coordinator at 127.0.0.1:1; trying again in"
    wait_for(lambda: waits in said(world, "site-a"), START_SECONDS)
    world.sites["site-a"].terminate()
    world.sites["site-a"].wait(START_SECONDS)
    settings = replace(world.settings("site-a", 1), give_up_seconds=1.0)

    world.run_site("site-a", 1, settings=settings.to_json())

    assert world.sites["site-a"].wait(START_SECONDS) == 1
    assert "127.0.0.1:1 has been away" in said(world, "site-a")


def test_a_site_that_refused_and_was_started_again_takes_part_in_its_round(
    world: World,
) -> None:
    plan = PLAN.model_copy(update={"quorum": 1})
    world.admit("site-a")
    world.admit("site-b")  # it never comes: for it the round waits
    coordinator = world.coordinator(plan)
    world.run_site("site-a", coordinator.port, refusal="the site cannot train")
    wait_for(lambda: "done train 1" in world.journal("site-a"), START_SECONDS)
    world.sites["site-a"].terminate()
    world.sites["site-a"].wait()

    world.run_site("site-a", coordinator.port)
    wait_for(lambda: coordinator.finished, longest(plan))

    (record,) = world.rounds()
    assert record.took_part == ["site-a"]
