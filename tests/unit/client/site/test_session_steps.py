"""A round's steps become epochs of this site, and classes are the teacher's by name."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.metrics import silent_metrics
from moma_client.site.session import SiteSession
from moma_client.student.factory import ema_terms, scenario_of
from moma_client.student.files import read_card
from moma_core.federation.task import RoundReport, RoundTask
from tests.support.federation.pki import Pki
from tests.support.site.first_day import FirstDay

TASK = RoundTask(
    kind="train",
    run="run-1",
    round=1,
    rounds=1,
    local_epochs=1,
    mode="independent",
    local_steps=7,
)


class _Node:
    """Hands out a run of one round, and keeps what is reported."""

    def __init__(self, _settings: object, _task_run: object) -> None:
        self.state = None

    def __enter__(self) -> "_Node":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tasks(self, _stop: threading.Event) -> Iterator[RoundTask]:
        yield TASK
        yield replace(TASK, kind="close")

    def report(self, task: RoundTask, report: RoundReport) -> None:
        assert report.refusal is None

    def fail(self, task: RoundTask) -> None:
        raise AssertionError(f"{task.key} failed")


def test_a_site_takes_the_epochs_that_a_rounds_steps_need(
    tmp_path: Path,
    pki: Pki,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = FirstDay(tmp_path, pki)
    config = SiteConfig.from_yaml(site.write())
    monkeypatch.setattr("moma_client.site.session.FederationNode", _Node)

    with caplog.at_level(logging.INFO):
        context = RunContext(config, threading.Event(), silent_metrics())
        SiteSession(context).run()

    card = read_card(config.state_dir / "runs" / "run-1" / "moma")
    logged = [record.getMessage() for record in caplog.records]
    assert card.steps == 9  # three of an epoch, as often as seven need
    assert "this run: 9 steps in 3 epochs" in logged
    assert any("9 in 3 epochs of 3: under 100" in line for line in logged)


def test_a_teacher_that_moves_takes_renamed_classes_by_name(
    tmp_path: Path, pki: Pki
) -> None:
    site = FirstDay(tmp_path, pki)
    site.set("task", classes={"kräftig": "strong", "schwach": "weak"})
    config = SiteConfig.from_yaml(site.write())
    classes = ("kräftig", "moderate", "negative", "schwach")

    terms = ema_terms(config, scenario_of(config, site.card, classes))

    assert terms.class_order is not None
    assert [site.card.class_names[place] for place in terms.class_order] == [
        "strong",
        "moderate",
        "negative",
        "weak",
    ]
