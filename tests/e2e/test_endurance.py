"""Sites ask, everybody is killed over and over, and all the ledger say the same."""

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from moma_server.metrics.metrics import SampleKey
from tests.support.e2e.fire import Fire, asking_sites, kill_at_random
from tests.support.e2e.programs import until
from tests.support.e2e.sums import (
    SitesWord,
    Sum,
    TeachersWord,
    assert_all_agree,
    charged_once,
    fetch,
    reserved,
    sums,
)
from tests.support.e2e.watched import (
    TEACHER_JOB,
    guard_teacher_page,
    logged_numbers,
    teacher_sample,
)
from tests.support.e2e.world import World
from tests.support.machine.metrics_page import TOKEN
from tests.support.machine.prometheus import Prometheus, Target

_logger = logging.getLogger(__name__)

_SEED = 20
_LONG = 10_000
_GRANT = 100_000
_ABANDONED_AFTER_SECONDS = 5
_SETTLE_SECONDS = 90.0
_SCRAPE_SECONDS = 60.0
_COUNTERS = '__name__=~"moma_teacher_(requests|patches)_total"'


@dataclass(frozen=True, slots=True)
class Endured:
    """What was done, and what everybody said afterwards.

    Args:
        fire: Who was killed.
        seconds: That it took.
        fetched: Receipts that each site lacked.
        scraped: Of Prometheus, the newest, without zeros.
        resets: Of counters, as Prometheus saw them.
        teacher: The teacher's word.
        sites: Each site's word.
    """

    fire: Fire
    seconds: float
    fetched: Mapping[str, int]
    scraped: Mapping[SampleKey, float]
    resets: Mapping[SampleKey, float]
    teacher: TeachersWord
    sites: Mapping[str, SitesWord]


@pytest.mark.slow
@pytest.mark.timeout(5400)  # of the long one, on a busy machine
@pytest.mark.parametrize(
    ("queries", "kills"),
    [(300, 5), (_LONG, 40)],
)
def test_receipts_log_budget_and_prometheus_agree_whoever_is_killed(
    tmp_path: Path, teacher: Path, queries: int, kills: int
) -> None:
    world = _world(tmp_path / "world", teacher)
    try:
        endured = _endured(world, queries, kills)
    finally:
        world.close()

    summary = _summary(endured)
    _logger.info("%d queries, %d kills: %s", queries, kills, summary)
    _assert_all_say_the_same(endured)
    _assert_each_query_is_charged_once(endured.teacher, queries)
    if queries >= _LONG:  # chance has had its chance
        assert min(summary["repetitions"], summary["abandoned"]) > 0
        assert summary["fetched"] > summary["abandoned"]


def _world(folder: Path, teacher: Path) -> World:
    world = World(folder, teacher, grants=dict.fromkeys(("site-a", "site-b"), _GRANT))
    guard_teacher_page(world)
    world.configure(
        "teacher",
        teacher={
            "abandoned_after_seconds": _ABANDONED_AFTER_SECONDS,
            "checkpoint_seconds": 1,
        },
    )
    return world


def _endured(world: World, queries: int, kills: int) -> Endured:
    ca = world.folder / "teacher" / "ca.pem"
    page = Target(TEACHER_JOB, world.ports["teacher"], ca, TOKEN)
    began = time.monotonic()
    with Prometheus(world.folder / "prometheus", [page]) as prometheus:
        world.serve("teacher")
        with asking_sites(world, queries) as sites:
            fire = kill_at_random(world, sites, kills, _SEED)
        seconds = time.monotonic() - began
        until(
            lambda: not reserved(world),
            seconds=_SETTLE_SECONDS,
            what="every charge is settled",
        )
        fetched = {site: fetch(world, site) for site in world.names}
        scraped = _scraped(prometheus, world)
        resets = prometheus.samples(f"resets({{{_COUNTERS}}}[3h])")
    teachers = TeachersWord.of(world)
    told = {site: SitesWord.of(world, site) for site in world.names}
    return Endured(fire, seconds, fetched, scraped, resets, teachers, told)


def _scraped(prometheus: Prometheus, world: World) -> dict[SampleKey, float]:
    """Returns the newest samples, once they are as many as the log's."""
    logged = logged_numbers(world.teacher_config())
    deadline = time.monotonic() + _SCRAPE_SECONDS
    while (seen := prometheus.samples(f"{{{_COUNTERS}}}")) != logged:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return seen


def _assert_all_say_the_same(endured: Endured) -> None:
    assert_all_agree(endured.teacher, endured.sites)
    log = sums(endured.teacher.entries)
    assert endured.scraped == _as_samples(endured.teacher, log)
    assert endured.resets == {}


def _as_samples(
    teacher: TeachersWord, log: Mapping[str, Sum]
) -> dict[SampleKey, float]:
    charged = {
        teacher_sample("patches", site): float(said.charged)
        for site, said in log.items()
    }
    ended = Counter(
        teacher_sample("requests", entry.site, outcome=entry.outcome)
        for entry in teacher.entries
    )
    return charged | {key: float(count) for key, count in ended.items()}


def _assert_each_query_is_charged_once(teacher: TeachersWord, queries: int) -> None:
    assert len(charged_once(teacher)) >= queries


def _summary(endured: Endured) -> dict[str, int]:
    entries = endured.teacher.entries
    outcomes = Counter(entry.outcome for entry in entries)
    return {
        **{f"kills_{name}": count for name, count in asdict(endured.fire).items()},
        "entries": len(entries),
        "repetitions": sum(entry.repetition for entry in entries),
        "abandoned": outcomes["abandoned"],
        "cancelled": outcomes["cancelled"],
        "failed": outcomes["failed"],
        "denied": outcomes["denied"],
        "patches_charged": sum(entry.charged for entry in entries),
        "fetched": sum(endured.fetched.values()),
        "seconds": round(endured.seconds),
    }
