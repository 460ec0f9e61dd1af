"""A site that is killed while it fills its cache, again and again."""

import random
import signal
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moma_core.teacher.query import Pixels
from tests.support.federation.pki import Pki
from tests.support.machine.killed import forking
from tests.support.site.cached_site import (
    PATCHES,
    VIEWS,
    CachedSite,
    Quarters,
    teaching,
)
from tests.support.site.remote_teacher import WAIT_SECONDS

KILLS = 4  # each lets a request or two through, and a repetition is free 16 times


class SlowQuarters(Quarters):
    def predict(
        self, pixels: Pixels
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        time.sleep(0.05)
        return super().predict(pixels)


def test_a_site_that_is_killed_again_and_again_is_charged_once_for_each_view(
    tmp_path: Path,
) -> None:
    pki, chance = Pki(), random.Random(1)
    backend, killed = SlowQuarters(), 0

    def some_more_are_answered() -> None:
        wanted = backend.patches + chance.randint(16, 40)
        deadline = time.monotonic() + WAIT_SECONDS
        while backend.patches < wanted and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))

    with teaching(tmp_path / "teacher", pki, backend=backend) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        site.write_config()
        with forking("tests.support.site.cache_filler", site.path) as children:
            for _ in range(KILLS):
                killed += children.run(until=some_more_are_answered) == -signal.SIGKILL
            assert children.run() == 0
        charged = served.budget.charged("site-a")
        undisturbed = CachedSite(tmp_path / "other", pki, served.port)
        undisturbed.fill_all()

    assert killed == KILLS
    assert charged == VIEWS * PATCHES
    assert site.cache_content() == undisturbed.cache_content()
