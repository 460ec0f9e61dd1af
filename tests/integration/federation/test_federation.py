"""Rounds between real processes: SuperLink, its ServerApp, the edge, the sites."""

import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from moma_core.errors import FederationError
from moma_core.federation.weights import load_with_metadata
from moma_server.config.federation_plan import FederationPlan, RunOrder
from moma_server.federation.engine.control import Control
from moma_server.federation.run.state import read_status
from moma_server.membership.members import remove_site
from tests.support.federation.world import (
    START_SECONDS,
    World,
    longest,
    other_bundle,
    wait_for,
)
from tests.support.machine.waiting import promised

pytestmark = pytest.mark.timeout(2400)  # two runs that last to every deadline


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def test_rounds_complete_and_say_how_every_site_fared(world: World) -> None:
    for site in ("site-a", "site-b", "site-c"):
        world.admit(site)
    plan = FederationPlan(
        rounds=2,
        quorum=1,
        poll_seconds=0.1,
        deadline_seconds=300,
        close_seconds=120,
        asks=2,
    )
    coordinator = world.coordinator(plan)
    world.run_site("site-a", coordinator.port)
    world.run_site("site-b", coordinator.port, fails=True)
    world.run_site("site-c", coordinator.port, refusal="the policy forbids it")

    over = coordinator.wait(longest(plan))
    wait_for(lambda: world.metric("moma_federation_sites", state="took_part") == 1)

    assert over
    outcomes = [record.outcome for record in world.records()]
    assert outcomes == ["completed", "completed", "completed", "finished"]
    for record in world.rounds():
        states = [record.sites[f"site-{letter}"].state for letter in "abc"]
        assert states == ["took_part", "failed", "refused"]
        assert record.sites["site-a"].patches == 10
        assert record.sites["site-c"].reason == "the policy forbids it"
    status = read_status(world.folder / "state")
    assert (status["finished"], status["completed"]) == (True, 2)
    assert world.metric("moma_federation_rounds_total", outcome="completed") == 2
    loss = world.metric("moma_site_metric", site="site-a", metric="loss")
    assert loss == pytest.approx(1 / 3)
    assert world.sites["site-a"].wait(promised(10)) == 0  # the closing task ended it
    log = (world.folder / "state" / "run.log").read_text()
    assert "train 2/2, try 1: completed, took part: site-a" in log


def test_a_key_that_was_shut_out_stays_out_and_others_join(world: World) -> None:
    for site in ("site-a", "site-b"):
        world.admit(site)
    coordinator = world.coordinator(FederationPlan(rounds=1, quorum=9))

    def registered() -> list[str]:
        sites: list[str] = read_status(world.folder / "state")["registered"]
        return sites

    state = world.folder / "state" / "state.json"
    wait_for(lambda: state.exists() and registered() == ["site-a", "site-b"])
    key = world.folder / "sites" / "site-b.pub"
    removed = key.read_bytes()
    remove_site(world.folder / "sites", "site-b")
    wait_for(lambda: registered() == ["site-a"])

    key.write_bytes(removed)
    world.admit("site-c")
    wait_for(lambda: "site-c" in registered())

    assert registered() == ["site-a", "site-c"]
    assert not coordinator.finished


# Installed programs are started anew in tests/e2e/test_averaging; from which round the
# average goes on is held by tests/unit/server/federation/test_run.
@pytest.mark.slow
def test_a_restarted_coordinator_averages_on_from_the_last_round(world: World) -> None:
    for site in ("site-a", "site-b"):
        world.admit(site)
    plan = FederationPlan(
        mode="fedavg",
        aggregation="mean",
        rounds=3,
        quorum=2,
        poll_seconds=0.1,
        deadline_seconds=300,
        close_seconds=120,
    )
    first = world.coordinator(plan)
    port = first.port
    world.run_site("site-a", port, value=1.0, patches=10, seconds=0.5)
    world.run_site("site-b", port, value=4.0, patches=20, seconds=0.5)
    wait_for(world.rounds, seconds=longest(plan))
    started = time.monotonic()
    first.stop()
    stopped_within = time.monotonic() - started

    second = world.coordinator(plan, port=port)
    over = second.wait(longest(plan))

    assert stopped_within < promised(10)
    assert over
    completed = [(r.round, r.took_part) for r in world.rounds()]
    assert completed == [(n, ["site-a", "site-b"]) for n in (1, 2, 3)]
    # every round moves the mean by (10 * 1 + 20 * 4) / 30 = 3
    weights, _ = load_with_metadata(
        world.folder / "state" / "weights" / "round-000003.safetensors"
    )
    np.testing.assert_allclose(weights["w"], np.full((2, 2), 9.0), rtol=1e-6)
    wait_for(lambda: "done close 3 9.000000" in world.journal("site-a"))
    assert world.metric("moma_federation_rounds_total", outcome="completed") == 3


def test_a_site_that_was_away_at_the_end_is_closed_when_it_comes(world: World) -> None:
    for site in ("site-a", "site-b"):
        world.admit(site)
    plan = FederationPlan(
        mode="fedavg",
        rounds=1,
        quorum=1,
        poll_seconds=0.1,
        deadline_seconds=300,
        close_seconds=120,
        grace_seconds=0.2,
    )
    first = world.coordinator(plan)
    port = first.port
    world.run_site("site-a", port)
    assert first.wait(longest(plan))
    first.stop()

    second = world.coordinator(plan, port=port)
    world.run_site("site-b", port)
    wait_for(lambda: world.sites["site-b"].poll() is not None, seconds=longest(plan))
    wait_for(lambda: len(world.records()) == 4, seconds=longest(plan))

    assert second.finished
    assert world.journal("site-b")[-1] == "done close 1 1.000000"
    assert [(r.kind, r.took_part) for r in world.records()] == [
        ("train", ["site-a"]),
        ("close", ["site-a"]),
        ("run", []),
        ("close", ["site-b"]),
    ]


def test_a_site_that_loses_power_in_a_round_still_takes_part(world: World) -> None:
    world.admit("site-a")
    plan = FederationPlan(
        rounds=1, quorum=1, poll_seconds=0.1, deadline_seconds=300, close_seconds=120
    )
    coordinator = world.coordinator(plan)
    world.run_site("site-a", coordinator.port, seconds=2.0)
    wait_for(lambda: world.journal("site-a"), seconds=longest(plan))

    world.cut_power("site-a")
    world.run_site("site-a", coordinator.port, seconds=2.0)
    over = coordinator.wait(longest(plan))

    assert over
    assert world.journal("site-a")[:3] == [
        "begun train 1",
        "begun train 1",
        "done train 1",
    ]
    (record,) = world.rounds()
    assert record.took_part == ["site-a"]


def test_a_site_refuses_a_run_of_another_bundle(world: World) -> None:
    world.admit("site-a")
    # its own run never starts: the quorum is not registered
    plan = FederationPlan(rounds=1, quorum=2, poll_seconds=0.1, deadline_seconds=300)
    coordinator = world.coordinator(plan)
    world.run_site("site-a", coordinator.port)
    nodes, state = (world.folder / "state" / f"{n}.json" for n in ("nodes", "state"))
    wait_for(lambda: state.exists() and coordinator.status()["online"])
    order = RunOrder(
        # long enough for the reminders, after 30 and 120 s, of a question that was lost
        plan=FederationPlan(
            rounds=1, retries=0, poll_seconds=0.1, deadline_seconds=600
        ),
        run="foreign",
        first_round=1,
        nodes=nodes,
        records=world.folder / "state" / "foreign.jsonl",
        weights=world.folder / "state" / "weights",
    )
    path = world.folder / "foreign.json"
    path.write_text(order.model_dump_json())
    control = Control(coordinator.engine)
    runs = [control.start_run(path, bundle=other_bundle())]

    def is_judged() -> bool:
        with suppress(FederationError):  # SuperLink is busy
            is_over = control.run_is_over(runs[-1])
            if is_over and not world.records_of(order.records):
                # SuperLink gives up a run that a busy machine starts too slowly
                runs.append(control.start_run(path, bundle=other_bundle()))
        return bool(world.records_of(order.records))

    with closing(control):
        wait_for(is_judged, seconds=4 * START_SECONDS + order.plan.deadline_seconds)

    record = world.records_of(order.records)[0]
    assert record.sites["site-a"].state == "refused"
    assert record.outcome == "missed_quorum"
    assert world.journal("site-a") == []
