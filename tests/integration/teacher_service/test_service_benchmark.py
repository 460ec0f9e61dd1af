"""The benchmark of the service, run once over: real processes, every service asked."""

from pathlib import Path

import pytest

from benchmarks.service.backends import NOTHING
from benchmarks.service.driving import WARM_BATCHES
from benchmarks.service.trials import CELLS, QUICK, compared
from benchmarks.service.world import world_of


@pytest.mark.slow
def test_every_service_answers_and_the_whole_one_logs_each_query(
    tmp_path: Path,
) -> None:
    cell = CELLS[0]

    with world_of(NOTHING, cell.side_px, tmp_path) as world:
        rows = list(compared(world, cell, QUICK, set()))

    assert {row["service"] for row in rows} == set(cell.services)
    for row in rows:
        asked = int(str(row["batches"])) + WARM_BATCHES
        is_logged = row["service"] in {"whole", "site", "relayed"}
        assert row["entries"] == (asked if is_logged else 0)
