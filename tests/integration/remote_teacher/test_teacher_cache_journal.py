"""What a filling that broke off leaves for the next one, against the real server."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from moma_client.cache.folder import CacheFolder, RequestJournal
from moma_core.errors import ConfigError
from moma_core.teacher.query import Pixels
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import (
    CARD,
    LABELLED,
    UNLABELLED,
    VIEWS,
    CachedSite,
    Quarters,
    Spender,
    teaching,
)

FIRST_ROUND = VIEWS * LABELLED + UNLABELLED
AHEAD = 32  # requests, more than a round has
STARTS = 3


class Loud(Quarters):
    """Says what no float16 holds, so that no answer is kept."""

    def predict(
        self, pixels: Pixels
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        embedding, logits = super().predict(pixels)
        return embedding + np.float32(1e6), logits


def _noted(site: CachedSite) -> list[list[int]]:
    (path,) = site.config.state_dir.glob("teacher-cache/*/*.asked")
    with closing(RequestJournal(path)) as journal:
        return [group.tolist() for group in journal.groups()]


def _noted_bytes(site: CachedSite) -> int:
    (path,) = site.config.state_dir.glob("teacher-cache/*/*.asked")
    return path.stat().st_size


def test_starts_that_keep_no_answer_repeat_each_request_once(tmp_path: Path) -> None:
    pki, sizes = Pki(), set()
    with teaching(tmp_path / "teacher", pki, backend=Loud()) as served:
        site = CachedSite(
            tmp_path / "site", pki, served.port, teacher={"in_flight": AHEAD}
        )
        for _ in range(STARTS):
            with pytest.raises(ConfigError, match="does not fit float16"):
                site.fill()
            sizes.add(_noted_bytes(site))
        charged = served.budget.charged("site-a")

    assert 0 < charged <= FIRST_ROUND
    assert site.patches("teacher") == STARTS * FIRST_ROUND
    assert len(sizes) == 1
    assert sum(map(len, _noted(site))) == FIRST_ROUND


def test_what_a_spent_budget_left_unanswered_is_not_charged_again(
    tmp_path: Path,
) -> None:
    pki, backend, grant = Pki(), Spender(), 205
    folder, ahead = tmp_path / "teacher", {"in_flight": AHEAD}
    with teaching(folder, pki, grant=grant, backend=backend) as served:
        backend.ledger = served.budget
        site = CachedSite(tmp_path / "site", pki, served.port, teacher=ahead)
        site.fill()
        left = _noted(site)
    with teaching(folder, pki, grant=1000, port=served.port) as served:
        site.fill()
        charged = served.budget.charged("site-a")

    assert left
    assert charged == Spender.PATCHES + FIRST_ROUND
    assert not _noted(site)


def test_what_the_cache_keeps_is_for_its_owner_alone(tmp_path: Path) -> None:
    with teaching(tmp_path / "teacher", Pki()) as served:
        site = CachedSite(tmp_path / "site", served.pki, served.port)
        folder = site.config.state_dir / "teacher-cache"
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        CacheFolder(site.config).keep_card(CARD)
        site.fill()

    own = folder / "teacher-a"
    modes = {path.name: path.stat().st_mode & 0o777 for path in own.iterdir()}
    assert folder.stat().st_mode & 0o777 == own.stat().st_mode & 0o777 == 0o700
    assert set(modes.values()) == {0o600}
    assert {"card.json", "request.key"} < set(modes)
