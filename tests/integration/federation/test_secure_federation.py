"""A secure round between real processes: the coordinator has a mean and no update."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from moma_core.federation.weights import load_with_metadata
from moma_server.config.federation_plan import FederationPlan
from tests.support.federation.masked_sites import first_weights, signing_keys
from tests.support.federation.world import World, longest, wait_for

pytestmark = pytest.mark.timeout(1200)

NAMES = ("site-a", "site-b", "site-c")
ROUNDS = 2
_ROW_BYTES, _EVERY_ROWS = 16, 16  # so of each 256 bytes of an update, 16 are looked for


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def test_three_sites_average_and_the_coordinator_reads_none_of_them(
    world: World,
) -> None:
    pinned = signing_keys(world.folder, *NAMES)
    for site in NAMES:
        world.admit(site)
    plan = FederationPlan(
        mode="fedavg",
        aggregation="secure",
        rounds=ROUNDS,
        quorum=3,
        poll_seconds=0.1,
        deadline_seconds=300,
        sum_seconds=120,
        close_seconds=120,
        max_update_norm=1e5,
    )
    coordinator = world.coordinator(plan)
    for value, site in enumerate(NAMES, start=1):
        partners = {name: key for name, key in pinned.items() if name != site}
        world.run_site(site, coordinator.port, value=float(value), partners=partners)

    over = coordinator.wait(longest(plan) + ROUNDS * 2 * plan.sum_seconds)
    wait_for(lambda: all(process.poll() == 0 for process in world.sites.values()))

    assert over
    assert [record.took_part for record in world.rounds()] == [list(NAMES)] * ROUNDS
    state = world.folder / "state"
    _assert_mean_of_the_plain_ones(world.folder)
    kept = [path.read_bytes() for path in state.rglob("*") if path.is_file()]
    assert sum(map(len, kept)) > first_weights()["body.weight"].nbytes
    for site in NAMES:
        for number in range(ROUNDS):
            plain = np.load(world.folder / site / f"plain-{number}.npy").tobytes()
            starts = range(0, len(plain), _ROW_BYTES * _EVERY_ROWS)
            rows = [plain[at : at + _ROW_BYTES] for at in starts]
            assert not any(row in content for row in rows for content in kept)
    assert world.journal("site-a")[-1] == "done close 2"


def _assert_mean_of_the_plain_ones(folder: Path) -> None:
    for number in range(1, ROUNDS + 1):
        student, _ = load_with_metadata(
            folder / "state" / "weights" / f"round-{number:06d}.safetensors"
        )
        plain = [np.load(folder / site / f"plain-{number - 1}.npy") for site in NAMES]
        mean = np.mean(plain, axis=0, dtype=np.float64)
        np.testing.assert_allclose(student["body.weight"], mean, atol=1e-6)
