"""A site whose patches moved within its manifest, against the real server."""

from dataclasses import replace
from pathlib import Path

import pytest

from moma_core.data.sources.demo_tissue import CLASS_NAMES
from moma_core.errors import DataError
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import (
    ROUND,
    VIEWS,
    WHOLE,
    CachedSite,
    teaching,
    write_pictures,
)

MOVED = 2 * VIEWS


def _swap_two_pictures(manifest: Path) -> None:
    """Lets two training patches of one label change places."""
    lines = [line.split(",", 1) for line in manifest.read_text().splitlines()]
    (*_, last) = (line for line in lines if line[1].endswith(",train"))
    (*_, other) = (line for line in lines if line[1] == last[1] and line is not last)
    last[0], other[0] = other[0], last[0]
    manifest.write_text("".join(",".join(line) + "\n" for line in lines))


def _drop_last_line(manifest: Path) -> None:
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:-1]))


def _data(manifest: Path) -> dict[str, object]:
    return {
        "kind": "csv_manifest",
        "path": str(manifest),
        "class_names": list(CLASS_NAMES),
    }


@pytest.mark.parametrize(("spare", "asked"), [(1000, MOVED), (MOVED - 3, MOVED - 3)])
def test_moved_patches_are_asked_within_the_budget_before_training_and_no_others(
    tmp_path: Path, spare: int, asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    pki, again = Pki(), replace(WHOLE, run="again")
    manifest, _ = write_pictures(tmp_path / "patches")
    whole = VIEWS * manifest.read_text().count(",train\n")
    with teaching(tmp_path / "teacher", pki, grant=whole + spare) as served:
        site = CachedSite(tmp_path / "site", pki, served.port, data=_data(manifest))
        site.fill(WHOLE)
        before = served.budget.charged("site-a")
        _swap_two_pictures(manifest)
        site.fill(again)
        filled = served.budget.charged("site-a")
        site.train(task=again)
        trained = served.budget.charged("site-a")

    assert before == whole
    assert filled == trained == whole + asked
    assert (
        f"{MOVED} views are stale, they show other pixels than those requested"
        in caplog.text
    )
    assert (
        f"{asked} of these views were queried before, and their pictures changed "
        f"since: they are charged to the budget again"
    ) in caplog.text


def test_patches_that_came_or_went_end_a_run_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    pki, second = Pki(), replace(ROUND, round=2)
    manifest, _ = write_pictures(tmp_path / "patches")
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(tmp_path / "site", pki, served.port, data=_data(manifest))
        site.fill()
        before = served.budget.charged("site-a")
        _drop_last_line(manifest)
        with pytest.raises(DataError, match="changed within the run, from 75 to 74; a"):
            site.fill(second)
        site.fill(replace(ROUND, run="new"))
        after = served.budget.charged("site-a")

    assert after == before
