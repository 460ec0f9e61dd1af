"""A site's student whose teacher follows it over the wire, against the real server."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.egress.outcome import StudentOutcome
from moma_client.metrics import silent_metrics
from moma_client.teacher.onboarding import onboard
from moma_core.config import validated
from moma_core.errors import CheckpointError, ConfigError, RefusedError, StoppedError
from moma_core.teacher.card.card import TeacherCard
from tests.support.federation.pki import Pki
from tests.support.site.momentum_site import (
    FIRST,
    KILLED,
    PATCHES,
    momentum_config,
    run,
    run_and_be_killed,
    run_and_be_stopped,
    served_teacher,
    student_job,
)
from tests.support.site.remote_teacher import running
from tests.support.site.tiny_site import local_config, write_teacher
from tests.support.teacher.moving_teacher import FREELY, KeptCopies
from tests.support.teacher.sealed import TEACHER_KEY
from tests.support.teacher.teacher_server import Served

LOOSE = replace(FREELY, most_distance=1e9)


@pytest.fixture
def card(tmp_path: Path) -> TeacherCard:
    torch.manual_seed(0)
    return write_teacher(tmp_path / "teacher")


@pytest.fixture
def backend(tmp_path: Path, card: TeacherCard) -> KeptCopies:
    return served_teacher(tmp_path / "teacher", card)


@pytest.fixture
def served(tmp_path: Path, pki: Pki, backend: KeptCopies) -> Iterator[Served]:
    with running(tmp_path / "served", pki, backend, momentum=LOOSE) as found:
        yield found


def met(config: SiteConfig) -> TeacherCard:
    return onboard(RunContext(config, threading.Event(), silent_metrics()))[0]


def assert_same_student(one: StudentOutcome, other: StudentOutcome) -> None:
    assert one.weights.keys() == other.weights.keys()
    assert all(np.array_equal(one.weights[n], other.weights[n]) for n in one.weights)


@pytest.mark.parametrize("schedule", ["published", "single_pass"])
def test_a_round_gives_the_student_that_a_teacher_on_the_disk_gives(
    tmp_path: Path, pki: Pki, card: TeacherCard, served: Served, schedule: str
) -> None:
    config = momentum_config(tmp_path / "site", pki, served.port, schedule=schedule)

    remote = run(student_job(config, met(config)))

    here = local_config(tmp_path, teacher={"schedule": schedule})
    local = run(student_job(here, card, task=replace(FIRST, run="local")))
    passes = 2 if schedule == "published" else 1
    assert served.budget.charged("site-a") == PATCHES * passes
    largest = max(float(np.abs(weights).max()) for weights in local.weights.values())
    for name, weights in local.weights.items():
        np.testing.assert_allclose(
            remote.weights[name], weights, rtol=1e-5, atol=1e-5 * largest
        )
    assert len(served.server.sessions) == 0  # it said good-bye


@pytest.mark.parametrize(
    ("schedule", "every"),
    [
        pytest.param("published", 1, marks=pytest.mark.slow),
        ("published", 3),
        pytest.param("single_pass", 3, marks=pytest.mark.slow),
    ],
)
def test_a_killed_site_resumes_to_the_student_of_one_that_was_not_killed(
    tmp_path: Path, pki: Pki, served: Served, schedule: str, every: int
) -> None:
    terms = {"schedule": schedule, "sync_every_steps": every}
    whole, broken = (
        momentum_config(tmp_path / name, pki, served.port, **terms)
        for name in ("whole", "broken")
    )
    card = met(whole)
    expected = run(student_job(whole, card))
    charged = served.budget.charged("site-a")
    job = student_job(broken, card)

    assert run_and_be_killed(job, after_step=7) == KILLED
    state = torch.load(job.folder / "checkpoint.pt", weights_only=True)
    resumed = run(job)

    assert state["step"] == 4  # so that three steps are taken again
    assert_same_student(resumed, expected)
    assert served.budget.charged("site-a") == charged  # and all was asked before


def test_a_stopped_site_leaves_no_session_behind(
    tmp_path: Path, pki: Pki, served: Served
) -> None:
    config = momentum_config(tmp_path / "site", pki, served.port)
    job = student_job(config, met(config))

    with pytest.raises(StoppedError, match="stopped after step 3"):
        run_and_be_stopped(job, after_step=3)
    left = len(served.server.sessions)

    assert served.budget.charged("site-a") > 0
    assert left == 0


def test_a_baseline_asks_the_teacher_as_it_is(
    tmp_path: Path, pki: Pki, served: Served, backend: KeptCopies
) -> None:
    config = momentum_config(tmp_path / "site", pki, served.port)
    frozen = validated(
        SiteConfig,
        config.model_dump(mode="json")
        | {
            "teacher": {
                "mode": "frozen",
                "views": 0,
                "name": "teacher-a",
                "address": f"localhost:{served.port}",
                "key": TEACHER_KEY,
            }
        },
        tmp_path / "config.yaml",
    )
    card = met(config)

    baseline = run(student_job(config, card, "kd"))

    assert backend.copies == []
    again = run(student_job(frozen, card, "kd", replace(FIRST, run="frozen")))
    assert_same_student(baseline, again)


def test_the_closing_task_asks_nothing(
    tmp_path: Path, pki: Pki, backend: KeptCopies
) -> None:
    with running(tmp_path / "served", pki, backend, momentum=LOOSE) as served:
        config = momentum_config(tmp_path / "site", pki, served.port)
        card = met(config)
        trained = run(student_job(config, card))

    close = replace(FIRST, kind="close")
    closed = run(student_job(config, card, task=close))  # and the teacher is away

    assert "unseen_macro_f1" in closed.figures
    assert_same_student(closed, trained)


def test_another_way_to_follow_is_another_run(
    tmp_path: Path, pki: Pki, served: Served
) -> None:
    config = momentum_config(tmp_path / "site", pki, served.port, sync_every_steps=5)
    card = met(config)
    run(student_job(config, card))
    other = momentum_config(tmp_path / "site", pki, served.port, sync_every_steps=4)

    with pytest.raises(CheckpointError, match="other settings"):
        run(student_job(other, card))


def test_a_teacher_whose_owner_says_no_is_sent_nothing(
    tmp_path: Path, pki: Pki, backend: KeptCopies
) -> None:
    with running(tmp_path / "served", pki, backend) as served:
        config = momentum_config(tmp_path / "site", pki, served.port)

        with pytest.raises(RefusedError, match="has no momentum sessions"):
            run(student_job(config, met(config)))
        assert served.budget.charged("site-a") == 0
        assert served.denied("policy") == 0


def test_a_student_of_another_architecture_is_refused_and_both_are_named(
    tmp_path: Path, pki: Pki, served: Served
) -> None:
    sections: Any = {"student": {"architecture": "test_resnet", "weights": "random"}}
    config = momentum_config(tmp_path / "site", pki, served.port, sections=sections)

    with pytest.raises(
        ConfigError,
        match=r"one architecture on both sides, not 'test_efficientnet' and "
        r"'test_resnet'",
    ):
        run(student_job(config, met(config)))
    assert len(served.server.sessions) == 0
