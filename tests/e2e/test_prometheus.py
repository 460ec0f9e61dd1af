"""A real Prometheus watches the real server, and knows what its log knows."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moma_server.config.server import ServerConfig
from moma_server.metrics.metrics import SampleKey
from tests.support.e2e.asking import ask
from tests.support.e2e.programs import until
from tests.support.e2e.watched import (
    TEACHER_JOB,
    guard_teacher_page,
    logged_numbers,
    teacher_is_scraped,
    teacher_sample,
)
from tests.support.e2e.world import World
from tests.support.machine.metrics_page import TOKEN
from tests.support.machine.prometheus import Prometheus, Target

_STRANGER = "stranger"
_SCRAPE_SECONDS = (
    60.0  # until Prometheus has what the server shows; it asks each second
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Iterator[World]:
    grants = {"site-a": 100, "site-b": 3}
    world = World(tmp_path_factory.mktemp("watched"), teacher, grants=grants)
    guard_teacher_page(world)
    try:
        yield world
    finally:
        world.close()


@pytest.fixture(scope="module")
def prometheus(world: World) -> Iterator[Prometheus]:
    ca, port = world.folder / "teacher" / "ca.pem", world.ports["teacher"]
    targets = [
        Target(TEACHER_JOB, port, ca, TOKEN),
        Target(_STRANGER, port, ca, TOKEN[::-1]),
    ]
    with Prometheus(world.folder / "prometheus", targets) as running:
        world.serve("teacher")
        teacher_is_scraped(running)
        yield running


def test_prometheus_and_the_log_have_the_same_numbers(
    world: World, prometheus: Prometheus
) -> None:
    repeated = os.urandom(16)
    for _ in range(3):
        assert ask(world, "site-a", patches=4) is None
    assert ask(world, "site-a", request_id=repeated) is None
    assert ask(world, "site-a", request_id=repeated, value=9) == "ReplayError"
    assert ask(world, "site-b") is None
    for _ in range(2):
        assert ask(world, "site-b") == "BudgetSpentError"

    asked = {
        teacher_sample("patches", "site-a"): 14.0,
        teacher_sample("patches", "site-b"): 2.0,
        teacher_sample("requests", "site-a", outcome="answered"): 4.0,
        teacher_sample("requests", "site-b", outcome="answered"): 1.0,
        teacher_sample("requests", "site-b", outcome="denied"): 2.0,
        teacher_sample("denied", "site-b", reason="budget"): 2.0,
    }
    _sees(prometheus, asked)
    written = logged_numbers(_config(world))
    assert written == asked


@pytest.mark.slow  # the test below kills it
def test_a_restart_of_the_server_loses_none(
    world: World, prometheus: Prometheus
) -> None:
    assert ask(world, "site-a") is None
    written = logged_numbers(_config(world))
    _sees(prometheus, written)

    assert world.programs[-1].stopped() == 0
    until(
        lambda: not prometheus.up(TEACHER_JOB),
        seconds=_SCRAPE_SECONDS,
        what="it is down",
    )
    world.serve("teacher")
    teacher_is_scraped(prometheus)

    _sees(prometheus, written)
    names = "|".join({name for name, _ in written})
    assert prometheus.samples(f'resets({{__name__=~"{names}"}}[10m])') == {}
    assert ask(world, "site-a") is None
    _sees(prometheus, logged_numbers(_config(world)))


def test_a_server_killed_between_two_scrapes_loses_none(
    world: World, prometheus: Prometheus
) -> None:
    assert ask(world, "site-a", patches=3) is None
    world.programs[-1].killed()

    world.serve("teacher")
    teacher_is_scraped(prometheus)

    _sees(prometheus, logged_numbers(_config(world)))


def test_who_has_another_token_scrapes_nothing(prometheus: Prometheus) -> None:
    until(
        lambda: "401" in prometheus.fault(_STRANGER),
        seconds=_SCRAPE_SECONDS,
        what="a target is refused",
    )

    assert prometheus.samples(f'{{job="{_STRANGER}", __name__=~"moma_.*"}}') == {}


def test_the_shipped_rules_are_evaluated_without_a_fault(
    prometheus: Prometheus,
) -> None:
    def rules() -> list[dict[str, Any]]:
        groups = (prometheus.asked("rules") or {"groups": []})["groups"]
        return [rule for group in groups for rule in group["rules"]]

    until(
        lambda: rules() and all(rule["health"] != "unknown" for rule in rules()),
        seconds=_SCRAPE_SECONDS,
        what="every rule is evaluated",
    )

    assert {rule["health"] for rule in rules()} == {"ok"}
    assert prometheus.samples('ALERTS{alertstate="firing"}') == {}


def _config(world: World) -> ServerConfig:
    return ServerConfig.from_yaml(world.folder / "teacher" / "server.yaml")


def _sees(prometheus: Prometheus, numbers: dict[SampleKey, float]) -> None:
    """Waits until Prometheus has these numbers, and no others of any site."""
    names = "|".join({name for name, _ in numbers})
    expression = f'{{job="{TEACHER_JOB}", __name__=~"{names}", site!=""}}'
    deadline = time.monotonic() + _SCRAPE_SECONDS
    while (seen := prometheus.samples(expression)) != numbers:
        if time.monotonic() > deadline:
            assert seen == numbers
        time.sleep(0.2)
