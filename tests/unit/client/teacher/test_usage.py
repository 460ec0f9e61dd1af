"""What a run has asked of its teacher, as the student's card will say it."""

import json
from pathlib import Path

import pytest

from moma_client.config.teacher import FrozenTeacherSection
from moma_client.teacher.usage import (
    Queries,
    read_all_queries,
    read_queries,
    recorded,
)
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import PATCHES, VIEWS, CachedSite, teaching
from tests.support.site.tiny_site import local_config
from tests.support.teacher.sealed import TEACHER_KEY


def test_what_is_asked_and_charged_is_noted_and_adds_up(
    tmp_path: Path, pki: Pki
) -> None:
    run = tmp_path / "run"
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        with recorded(site.context, run):
            site.fill()
        first, charged = read_queries(run), served.budget.charged("site-a")
        with recorded(site.context, run):
            site.fill_all()

    assert first == Queries(charged, charged)
    assert 0 < charged < VIEWS * PATCHES
    assert read_queries(run) == Queries(VIEWS * PATCHES, VIEWS * PATCHES)


def test_a_round_that_breaks_off_is_noted_too(tmp_path: Path, pki: Pki) -> None:
    site = CachedSite(tmp_path / "site", pki, 1)  # nobody says what is charged
    run = tmp_path / "run"

    def break_off() -> None:
        with recorded(site.context, run):
            site.metrics.count_sent("teacher-a", 5)
            raise KeyError

    with pytest.raises(KeyError):
        break_off()

    assert read_queries(run) == Queries(5, None)


def test_a_round_that_asks_nothing_notes_nothing(tmp_path: Path, pki: Pki) -> None:
    site = CachedSite(tmp_path / "site", pki, 1)

    with recorded(site.context, tmp_path):
        site.metrics.patches.labels(source="bank").inc(5)

    assert read_queries(tmp_path) is None


def test_what_each_of_several_teachers_was_asked_is_found_by_its_name(
    tmp_path: Path,
) -> None:
    both = tuple(
        FrozenTeacherSection(
            mode="frozen", name=name, address="localhost:1", key=TEACHER_KEY
        )
        for name in ("teacher-a", "teacher-b")
    )
    config = local_config(tmp_path).model_copy(update={"teachers": both})
    run = tmp_path / "run"
    (run / "queries").mkdir(parents=True)
    text = json.dumps({"asked": 7, "charged": None})
    (run / "queries" / "teacher-b.json").write_text(text)

    assert read_all_queries(config, run) == {"teacher-b": Queries(7, None)}
