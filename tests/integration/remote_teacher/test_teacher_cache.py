"""A site whose views are asked once, against the real server."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moma_client.cache.views import ViewSchedule, batch_plan
from moma_client.egress.to_coordinator import CoordinatorEgress
from moma_client.site.session import SiteRounds
from moma_client.site.teachers import RunTeachers
from moma_client.teacher.onboarding import onboard
from moma_core.data.sources.demo_tissue import CLASS_NAMES
from moma_core.data.sources.factory import open_source
from moma_core.errors import (
    BudgetSpentError,
    CheckpointError,
    ConfigError,
    TeacherUnavailableError,
)
from moma_core.federation.task import RoundReport, RoundTask
from moma_core.runtime.files import write_private
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import (
    CARD,
    LABELLED,
    PATCHES,
    ROUND,
    UNLABELLED,
    VIEWS,
    WHOLE,
    CachedSite,
    Spender,
    teaching,
    write_pictures,
)

FIRST_ROUND = VIEWS * LABELLED + UNLABELLED  # labels are drawn four times an epoch
DRAWN = 10 * 16 + 12  # rows of the steps of an epoch
CLOSED_PORT = 1


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """An absent teacher is given up at once."""
    monkeypatch.setattr("moma_client.teacher.retry.Retries._pause_after", _give_up)


def _give_up(_: object, failure: Exception) -> None:
    raise TeacherUnavailableError(str(failure))


def test_all_students_of_a_site_ask_for_each_view_once(
    tmp_path: Path, pki: Pki
) -> None:
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        site.fill()
        for method in ("moma", "kd", "ce"):
            site.train(method)
        charged = served.budget.charged("site-a")
        site.fill(replace(ROUND, round=2))
        in_all = served.budget.charged("site-a")

    assert charged == site.patches("teacher") - (in_all - charged) == FIRST_ROUND
    assert in_all == FIRST_ROUND + UNLABELLED  # the second view of each
    assert site.patches("bank") == 2 * DRAWN  # moma and kd


def test_a_filling_can_be_followed_from_the_log(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(
            tmp_path / "site", pki, served.port, training={"log_every_seconds": 1e-6}
        )
        with caplog.at_level(logging.INFO):
            site.fill()

    lines = [line for line in caplog.messages if " a second, " in line]
    assert lines
    assert all(line.startswith("teacher cache: ") for line in lines)
    assert f"teacher cache: {FIRST_ROUND} of {FIRST_ROUND} views, " in lines[-1]
    assert lines[-1].endswith(" a second, 0:00:00 left")


def test_a_filled_cache_trains_a_round_without_a_teacher(
    tmp_path: Path, pki: Pki, no_patience: None, caplog: pytest.LogCaptureFixture
) -> None:
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        met, _, _ = onboard(site.context)
        site.fill(WHOLE)
        online = site.train(task=WHOLE)

    with caplog.at_level(logging.INFO):
        kept, terms, _ = onboard(site.context)
        again = replace(WHOLE, run="again")
        site.fill(again, kept)
        offline = site.train(task=again)

    assert met == kept == CARD
    assert "going on with the card that the cache keeps" in terms
    assert f"all {VIEWS * PATCHES} views of this round are here" in caplog.text
    assert site.patches("teacher") == VIEWS * PATCHES
    for name, weight in online.weights.items():
        assert np.array_equal(weight, offline.weights[name])


def test_without_a_cache_or_a_card_an_absent_teacher_is_an_error(
    tmp_path: Path, pki: Pki, no_patience: None
) -> None:
    site = CachedSite(tmp_path / "site", pki, CLOSED_PORT)

    with pytest.raises(TeacherUnavailableError):
        onboard(site.context)
    with pytest.raises(TeacherUnavailableError):
        site.fill()


def test_a_cache_with_a_view_of_each_patch_goes_on_while_the_teacher_is_away(
    tmp_path: Path, pki: Pki, no_patience: None, caplog: pytest.LogCaptureFixture
) -> None:
    second = replace(ROUND, round=2)
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        site.fill()
        site.train()

    site.fill(second)
    site.train(task=second)

    assert f"{UNLABELLED} of {FIRST_ROUND + UNLABELLED} views of this round are m" in (
        caplog.text
    )
    assert site.patches("teacher") == FIRST_ROUND


def test_where_the_budget_ends_training_goes_on_with_what_is_there(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    grant = 70
    with teaching(tmp_path / "teacher", pki, grant=grant) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        with caplog.at_level(logging.INFO):
            site.fill()
        outcome = site.train()
        second = replace(ROUND, round=2)
        site.fill(second)
        site.train(task=second)
        charged = served.budget.charged("site-a")

    table = ViewSchedule(site.folder(ROUND)).of_round(1)
    assert table is not None
    assert charged == grant  # to the last patch
    assert outcome.patches == grant
    assert (
        f"{FIRST_ROUND - grant} of {FIRST_ROUND} views of this round are missing: "
        f"{grant} patches show the views that they have, {PATCHES - grant} that have "
        f"none are left out"
    ) in caplog.text
    assert np.bitwise_count(table.masks).sum() == grant


def test_a_budget_that_another_run_spends_meanwhile_ends_the_filling_and_no_more(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Spender()
    with teaching(tmp_path / "teacher", pki, grant=200, backend=backend) as served:
        backend.ledger = served.budget
        site = CachedSite(tmp_path / "site", pki, served.port)
        site.fill()
        outcome = site.train()
        asked = served.budget.charged("site-a") - Spender.PATCHES

    assert "the budget is spent" in caplog.text
    # Requests under way together are charged in any order: what was charged behind a
    # refusal and is not kept is free when it is asked again.
    assert 0 < outcome.patches <= asked <= 100


def test_a_site_without_any_budget_is_refused_until_it_has_one(
    tmp_path: Path, pki: Pki
) -> None:
    folder = tmp_path / "teacher"
    with teaching(folder, pki, grant=0) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        with pytest.raises(BudgetSpentError, match=r"budget\.sites\.site-a"):
            site.fill()
    with teaching(folder, pki, grant=1000, port=served.port):
        site.fill()
        outcome = site.train()

    assert outcome.patches == PATCHES


def test_a_damaged_record_is_asked_again_while_the_student_trains(
    tmp_path: Path, pki: Pki
) -> None:
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        site.fill()
        site.train()
        (path,) = site.config.state_dir.glob("teacher-cache/*/*.cache")
        content = path.read_bytes()
        path.write_bytes(content[:4096] + bytes(len(content) - 4096))
        site.train("kd")  # as the same round, which has its table
        charged = served.budget.charged("site-a")
        site.train("hint")
        once = served.budget.charged("site-a")

    assert charged == once == FIRST_ROUND + DRAWN


def test_a_changed_patch_is_asked_anew_and_the_rest_is_not(
    tmp_path: Path, pki: Pki
) -> None:
    manifest, picture = write_pictures(tmp_path / "patches")
    data = {
        "kind": "csv_manifest",
        "path": str(manifest),
        "class_names": list(CLASS_NAMES),
    }
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(tmp_path / "site", pki, served.port, data=data)
        site.fill(WHOLE)
        site.train(task=WHOLE)
        before = served.budget.charged("site-a")
        Image.open(picture).rotate(90).save(picture)
        site.train("kd", task=WHOLE)
        after = served.budget.charged("site-a")

    assert after == before + VIEWS


def test_two_devices_read_one_cache_without_a_teacher(
    tmp_path: Path, pki: Pki, no_patience: None
) -> None:
    training = {"batch_size": 16, "threads": 1, "accelerator": "cpu", "devices": 2}
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(tmp_path / "site", pki, served.port, training=training)
        site.fill()
        charged = served.budget.charged("site-a")

    outcome = site.train()

    assert charged == site.patches("teacher") == FIRST_ROUND
    assert site.patches("bank") == DRAWN
    assert all(np.isfinite(array).all() for array in outcome.weights.values())


class _Node:
    """Takes what a site reports."""

    def __init__(self) -> None:
        self.reported: list[RoundReport] = []

    def report(self, task: RoundTask, report: RoundReport) -> None:
        self.reported.append(report)

    def fail(self, task: RoundTask) -> None:
        raise AssertionError(f"{task.key} failed")


def test_a_config_that_changed_within_a_run_is_refused_before_anything_is_asked(
    tmp_path: Path, pki: Pki
) -> None:
    second = replace(ROUND, round=2)
    with teaching(tmp_path / "teacher", pki) as served:
        begun = CachedSite(tmp_path / "site", pki, served.port)
        node = _Node()
        _rounds(begun).handle(ROUND, node)  # type: ignore[arg-type]
        charged = served.budget.charged("site-a")
        changed = CachedSite(tmp_path / "site", pki, served.port, views="tissue")

        with pytest.raises(CheckpointError, match="undo what was changed since it"):
            _rounds(changed).handle(second, node)  # type: ignore[arg-type]

        assert served.budget.charged("site-a") == charged
    assert [report.refusal is None for report in node.reported] == [True, False]


def _rounds(site: CachedSite) -> SiteRounds:
    config, source = site.config, open_source(site.config.data)
    teachers = RunTeachers.onboard(site.context, source)
    steps = batch_plan(config, source.index).steps_per_epoch
    egress = CoordinatorEgress(config, site.metrics)
    return SiteRounds(site.context, egress, teachers, steps)


def test_an_encrypted_cache_serves_with_its_key_and_with_no_other(
    tmp_path: Path, pki: Pki
) -> None:
    key = tmp_path / "cache.key"
    write_private(key, b"ab" * 32)
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(
            tmp_path / "site", pki, served.port, teacher={"cache_key_file": str(key)}
        )
        site.fill()
        site.train()
        key.write_text("cd" * 32)
        with pytest.raises(ConfigError, match="encrypted with another key"):
            site.fill()
        key.write_text("ab")
        with pytest.raises(ConfigError, match="key file holds 2 bytes, not 32"):
            site.fill()
        key.chmod(0o644)
        with pytest.raises(ConfigError, match="others can read it"):
            site.fill()

    assert site.patches("teacher") == FIRST_ROUND


def test_an_online_site_asks_at_every_step_as_before(tmp_path: Path, pki: Pki) -> None:
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(tmp_path / "site", pki, served.port, teacher={"views": 0})
        site.fill()
        assert served.budget.charged("site-a") == 0
        site.train()
        charged = served.budget.charged("site-a")

    assert charged == DRAWN
    assert site.patches("bank") == 0
