"""Two real teachers with different classes, one student; of the two, one is noise."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moma_client.audit.receipts import receipts_path, verify_receipts
from moma_client.cache.views import ViewSchedule
from moma_client.egress.log import log_entries, log_path
from moma_client.student.files import read_card
from moma_client.teacher.usage import Queries, read_queries
from moma_core.errors import TeacherUnavailableError
from moma_core.evaluation.agreement import FLOOR
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import (
    LABELLED,
    PATCHES,
    ROUND,
    VIEWS,
    WHOLE,
    teaching,
)
from tests.support.site.several_site import (
    GOOD,
    NOISE,
    Expert,
    Noise,
    SeveralSite,
    ports_of,
    two_teachers,
)
from tests.support.teacher.sealed import key_of

FIRST_ROUND = 4 * LABELLED + (PATCHES - LABELLED)
BY_AGREEMENT = {"": {"weight": "agreement"}}


def test_one_student_learns_from_both_and_all_of_them_stays_apart(
    tmp_path: Path, pki: Pki
) -> None:
    with two_teachers(tmp_path, pki) as served:
        site = SeveralSite(
            tmp_path / "site", pki, ports_of(served), teacher=BY_AGREEMENT
        )
        teachers = site.prepared(site.onboard(), ROUND)
        outcome = site.train_with(teachers, ROUND, "moma")
        charged = {name: each.budget.charged("site-a") for name, each in served.items()}
        logs = {name: each.log_size() for name, each in served.items()}

    state, run = site.config.state_dir, site.folder(ROUND)
    good, noise = teachers
    # the student's config
    assert (good.card.name, good.scenario.name) == (GOOD, "same")
    assert good.scenario.class_order is not None
    assert good.scenario.class_order.tolist() == [3, 2, 1, 0]
    assert (noise.card.name, noise.scenario.name) == (NOISE, "relevant")
    assert noise.scenario.class_order is None
    # the better one has the larger weight, and noise the floor
    assert good.weight > 0.9
    assert noise.weight == pytest.approx(
        FLOOR * good.weight / _measured(run, GOOD), abs=1e-5
    )
    assert good.weight + noise.weight == pytest.approx(1, abs=1e-5)
    # both budgets, both logs, both files of receipts
    assert charged == {GOOD: FIRST_ROUND, NOISE: FIRST_ROUND}
    for name in (GOOD, NOISE):
        _check_apart(site, name, logs[name])
    sent = [each["teacher"] for each in log_entries(log_path(state))]
    assert set(sent) == {GOOD, NOISE}
    # what the student's card says of them
    card = read_card(run / "moma")
    assert [each.name for each in card.teachers] == [GOOD, NOISE]
    assert [each.weight for each in card.teachers] == [good.weight, noise.weight]
    assert card.teacher == f"{GOOD}, {NOISE}"
    assert 0 <= outcome.figures["validation_macro_f1"] <= 1


def _check_apart(site: SeveralSite, name: str, log_size: float) -> None:
    """Checks receipts, log, counts and cache of one of the teachers."""
    state = site.config.state_dir
    proved = verify_receipts(receipts_path(state, name), [key_of(name).public])
    assert proved.patches == FIRST_ROUND
    assert proved.newest is not None
    assert proved.newest.origin.split("/")[1] == name
    assert proved.newest.size <= log_size
    queries = read_queries(site.folder(ROUND), name)
    assert queries == Queries(FIRST_ROUND, FIRST_ROUND)
    assert site.metrics.sent_to(name) == FIRST_ROUND
    assert list((state / "teacher-cache" / name).glob("*.cache"))


def _measured(run: Path, teacher: str) -> float:
    found = json.loads((run / "teachers" / "000001.json").read_text())[teacher]
    assert (found["by"], found["patches"]) == ("logits", LABELLED)
    return float(found["agreement"])


def test_a_checkpoint_has_each_teachers_parts_and_a_second_round_goes_on(
    tmp_path: Path, pki: Pki
) -> None:
    shares = {GOOD: {"weight": 3}, NOISE: {"weight": 1}}
    with two_teachers(tmp_path, pki) as served:
        site = SeveralSite(tmp_path / "site", pki, ports_of(served), teacher=shares)
        run = site.onboard()
        site.train_with(site.prepared(run, ROUND), ROUND, "moma")
        second = replace(ROUND, round=2)
        teachers = site.prepared(run, second)
        site.train_with(teachers, second, "moma")
        site.train_with(teachers, second, "kd")

    assert [each.weight for each in teachers] == [0.75, 0.25]
    folder = site.folder(ROUND)
    state = torch.load(folder / "moma" / "checkpoint.pt", weights_only=True)
    names = state["distiller"]
    assert f"teachers.{GOOD}.bank.keys" in names
    assert f"teachers.{NOISE}.adapter.weight" in names
    assert state["distiller"][f"teachers.{NOISE}.bank.held"] > 0
    steps = read_card(folder / "moma").steps
    assert steps == read_card(folder / "kd").steps == state["step"] > 0


def test_where_one_budget_ends_the_other_teachers_terms_go_on(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    few = 40
    with two_teachers(tmp_path, pki, grants={NOISE: few}) as served:
        site = SeveralSite(tmp_path / "site", pki, ports_of(served))
        teachers = site.prepared(site.onboard(), WHOLE)
        outcome = site.train_with(teachers, WHOLE, "moma")
        charged = {name: each.budget.charged("site-a") for name, each in served.items()}

    assert charged == {GOOD: VIEWS * PATCHES, NOISE: few}
    assert outcome.patches == PATCHES  # none is left out
    missing = VIEWS * PATCHES - few
    assert f"cache of {NOISE}: {missing} of {VIEWS * PATCHES} views" in caplog.text


def test_a_teacher_that_is_away_drops_its_own_term_until_it_is_back(
    tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(_: object, failure: Exception) -> None:
        raise TeacherUnavailableError(str(failure))

    first, second, third = (replace(ROUND, round=n, rounds=3) for n in (1, 2, 3))
    with teaching(tmp_path / GOOD, pki, backend=Expert()) as good:
        with teaching(tmp_path / NOISE, pki, backend=Noise()) as noise:
            ports = ports_of({GOOD: good, NOISE: noise})
            site = SeveralSite(tmp_path / "site", pki, ports)
            run = site.onboard()
            site.prepared(run, first)
        with monkeypatch.context() as patched:
            patched.setattr("moma_client.teacher.retry.Retries._pause_after", give_up)
            site.train_with(site.prepared(run, second), second, "moma")
        with teaching(tmp_path / NOISE, pki, backend=Noise(), port=noise.port) as back:
            site.prepared(run, third)
            charged = {
                GOOD: good.budget.charged("site-a"),
                NOISE: back.budget.charged("site-a"),
            }

    def views(name: str, number: int) -> int:
        mask = ViewSchedule(site.folder(first), name).of_round(number)
        assert mask is not None
        return sum(int(each).bit_count() for each in mask.masks)

    once = PATCHES - LABELLED  # of each unlabelled patch a view more in each round
    assert [views(GOOD, n) for n in (1, 2, 3)] == [
        FIRST_ROUND,
        FIRST_ROUND + once,
        FIRST_ROUND + 2 * once,
    ]
    assert [views(NOISE, n) for n in (1, 2, 3)] == [
        FIRST_ROUND,
        FIRST_ROUND,
        FIRST_ROUND + 2 * once,
    ]
    assert charged == {GOOD: views(GOOD, 3), NOISE: views(NOISE, 3)}


def test_a_round_waits_where_no_teacher_has_what_it_shows(
    tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(_: object, failure: Exception) -> None:
        raise TeacherUnavailableError(str(failure))

    with two_teachers(tmp_path, pki) as served:
        site = SeveralSite(tmp_path / "site", pki, ports_of(served))
        run = site.onboard()

    monkeypatch.setattr("moma_client.teacher.retry.Retries._pause_after", give_up)
    with pytest.raises(TeacherUnavailableError, match="cannot reach"):
        site.prepared(run, ROUND)
