"""Mistakes of a new user: each is told before a patch is sent, with what to do.

By the doctor, by the plan and by the run: from one place.
"""

import json
import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from moma_client.cli.main import main
from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.metrics import silent_metrics
from moma_client.reports.doctor.run import examine
from moma_client.site.session import SiteSession
from moma_core.errors import ConfigError, DataError, MomaError
from moma_core.runtime.finding import Finding
from moma_core.teacher.card.card import TeacherCard
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import CachedSite
from tests.support.site.first_day import FirstDay, picture

Mistake = Callable[[FirstDay], None]


@pytest.fixture
def site(tmp_path: Path, pki: Pki) -> FirstDay:
    return FirstDay(tmp_path, pki)


def _look(site: FirstDay, **options: bool) -> list[Finding]:
    now = datetime.now(UTC)
    found = list(examine(site.write(), ask=False, now=now, **options))
    return [each for each in found if each.check not in {"coordinator", "terms"}]


def _change_card(site: FirstDay, **fields: Any) -> None:
    path = site.folder / "teacher" / "card.json"
    replace(TeacherCard.load(path), **fields).save(path)


# ------------------------------------------------------------------ nothing is wrong


def test_a_set_in_order_is_counted_by_class_and_split_and_warned_of_nothing(
    site: FirstDay,
) -> None:
    findings = _look(site)

    odd = [f for f in findings if f.state != "ok" and f.check != "reference patch"]
    assert odd == []
    (counts,) = (f for f in findings if f.check == "data" and f.more)
    assert counts.more[0].split() == ["class", "train", "validation", "unseen"]
    assert counts.more[1].startswith("moderate ")
    assert "12 / 12 / ?" in counts.more[1]
    assert "48 / 12 / ?" in counts.more[-1]  # of all classes
    assert counts.as_json()["classes"] is not None


def _capital_organ(site: FirstDay) -> None:
    site.set("task", organ="Colon")


def _trailing_blank(site: FirstDay) -> None:
    site.set("task", task="Stain ")


def _other_case(site: FirstDay) -> None:
    site.rename("strong", "STRONG")


def _renamed(site: FirstDay) -> None:
    site.rename("strong", "kräftig")
    site.set("task", classes={"kräftig": "strong"})


@pytest.mark.parametrize(
    "change", [_capital_organ, _trailing_blank, _other_case, _renamed]
)
def test_how_a_name_is_written_does_not_decide_the_losses(
    site: FirstDay, change: Mistake
) -> None:
    change(site)

    (scenario,) = (f for f in _look(site) if f.check == "scenario")

    assert scenario.text.startswith("same (")
    assert "KL to the teacher's class probabilities" in scenario.text


# ------------------------------------------------------------------ what ends a run


def _one_class(site: FirstDay) -> None:
    for label in ("weak", "moderate", "strong"):
        for split in ("train", "validation", "unseen"):
            shutil.rmtree(site.root / split / label)


def _class_in_validation_alone(site: FirstDay) -> None:
    shutil.rmtree(site.root / "train" / "strong")


def _no_validation(site: FirstDay) -> None:
    for path in site.pictures("validation"):
        path.unlink()


def _nothing_unseen(site: FirstDay) -> None:
    shutil.rmtree(site.root / "unseen")


def _copy_in_unseen(site: FirstDay) -> None:
    first = site.pictures("train", "weak")[0]
    shutil.copy(first, site.root / "unseen" / "weak" / "p299.png")


def _turned_copy_in_unseen(site: FirstDay) -> None:
    with Image.open(site.pictures("train", "weak")[0]) as first:
        turned = first.transpose(Image.Transpose.TRANSVERSE)
    turned.save(site.root / "unseen" / "weak" / "p299.png")


def _copy_under_another_label(site: FirstDay) -> None:
    first = site.pictures("train", "weak")[0]
    shutil.copy(first, site.root / "train" / "strong" / "p99.png")


def _patient_in_two_splits(site: FirstDay) -> None:
    picture(site.root / "unseen" / "weak" / "p3.png", 7)


def _too_few_labels_kept(site: FirstDay) -> None:
    site.set("data", keep_labelled=2)


def _no_labels_in_validation(site: FirstDay) -> None:
    site.manifest({path: {"label": ""} for path in site.pictures("validation")})


def _pictures_not_copied(site: FirstDay) -> None:
    site.manifest()
    for path in site.pictures("train")[::3]:
        path.unlink()


def _everything_to_train_on(site: FirstDay) -> None:
    for number, path in enumerate(site.pictures()):
        place = site.folder / "flat" / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / f"p{number}.png")
    fractions = {"train": 1.0, "validation": 0.0, "unseen": 0.0}
    site.set("data", root=str(site.folder / "flat"), fractions=fractions)


def _best_without_validation(site: FirstDay) -> None:
    _no_validation(site)
    site.set("egress", metrics=["unseen_accuracy"])
    site.set("training", keep="best")


def _patience_without_validation(site: FirstDay) -> None:
    _no_validation(site)
    site.set("egress", metrics=["unseen_accuracy"])
    site.set("training", patience=3)


def _one_picture(site: FirstDay) -> None:
    for label in ("negative", "weak", "moderate", "strong"):
        for path in site.pictures("train", label)[1:]:
            path.unlink()
    site.set("training", batch_size=8)
    shutil.rmtree(site.root / "train" / "strong")
    shutil.rmtree(site.root / "train" / "moderate")


def _broken_pictures(site: FirstDay) -> None:
    for path in site.pictures("train")[:20]:
        path.write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("mistake", "check", "said"),
    [
        (_one_class, "classes", "of one class, 'negative'"),
        (_class_in_validation_alone, "classes", "none to learn from"),
        (
            _no_validation,
            "data",
            "no labelled patch to validate on, and egress",
        ),
        (_best_without_validation, "data", "training.keep: best asks figures"),
        (_patience_without_validation, "data", "training.patience: 3 asks figures"),
        (_nothing_unseen, "data", "no labelled patch that is unseen, and egress"),
        (_copy_in_unseen, "pictures", "in another split"),
        (_turned_copy_in_unseen, "pictures", "when turned or mirrored, are in another"),
        (_copy_under_another_label, "pictures", "have another label"),
        (_patient_in_two_splits, "data", "in more than one split"),
        (_too_few_labels_kept, "classes", "data.keep_labelled, if set"),
        (_no_labels_in_validation, "data", "no labelled patch to validate on"),
        (_pictures_not_copied, "data", "that the paths start at the right"),
        (_everything_to_train_on, "data", "no labelled patch to validate on"),
        (_one_picture, "classes", "none to learn from"),
        (_broken_pictures, "pictures", "cannot be read"),
    ],
)
def test_what_cannot_be_learned_or_judged_ends_doctor_plan_and_run(
    site: FirstDay,
    caplog: pytest.LogCaptureFixture,
    mistake: Mistake,
    check: str,
    said: str,
) -> None:
    mistake(site)

    problems = [f for f in _look(site, all_pictures=True) if f.state == "problem"]
    caplog.clear()
    planned = main(["plan", "--site", str(site.path)])
    (error,) = (r.getMessage() for r in caplog.records if r.levelname == "ERROR")
    with pytest.raises(MomaError) as ended:
        _run(site)

    assert any(f.check == check and said in f.text for f in problems)
    assert planned == 1
    assert error == str(ended.value)
    assert "\n" not in error
    assert said in error or any(f.text in error for f in problems)


def _run(site: FirstDay) -> None:
    config = SiteConfig.from_yaml(site.write())
    SiteSession(RunContext(config, threading.Event(), silent_metrics())).run()


def _renames_no_class(site: FirstDay) -> None:
    site.set("task", classes={"stong": "strong"})


def _renames_to_nothing(site: FirstDay) -> None:
    site.set("task", classes={"strong": "sstrong"})


def _renames_two_to_one(site: FirstDay) -> None:
    site.set("task", classes={"strong": "weak", "weak": "weak"})


def _wants_the_same_of_others(site: FirstDay) -> None:
    site.rename("strong", "strongly stained")
    site.set("distillation", scenario="same")


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (_renames_no_class, "did you mean 'strong'"),
        (_renames_to_nothing, "did you mean 'strong'"),
        (_renames_two_to_one, "to two classes"),
        (
            _wants_the_same_of_others,
            "task.classes: {'strongly stained': 'strong'",
        ),
    ],
)
def test_a_task_that_does_not_fit_its_teacher_ends_doctor_and_run(
    site: FirstDay, mistake: Mistake, said: str
) -> None:
    mistake(site)

    problems = [f for f in _look(site) if f.state == "problem"]
    with pytest.raises(ConfigError, match=said):
        _run(site)

    assert any(f.check == "scenario" and said in f.text for f in problems)


# ------------------------------------------------------------------ the run


def test_the_run_says_in_its_log_what_the_doctor_says(
    site: FirstDay, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.rename("strong", "strongly stained")
    site.add("train", "negative", 120, first=400)
    (site.root / "train" / "weak" / "slide.svs").write_bytes(b"II*\x00")
    warned = [
        f for f in _look(site) if f.state == "warning" and f.check != "reference patch"
    ]
    caplog.clear()
    monkeypatch.setattr(
        "moma_client.site.session.FederationNode", _no_coordinator, raising=True
    )

    with caplog.at_level(logging.INFO), pytest.raises(_NoCoordinatorError):
        _run(site)

    logged = [record.getMessage() for record in caplog.records]
    assert len(warned) >= 3
    for finding in warned:
        assert any(finding.text in line for line in logged), finding
    assert not any("slide.svs" in line for line in logged)


class _NoCoordinatorError(Exception):
    pass


def _no_coordinator(*_: object, **__: object) -> None:
    raise _NoCoordinatorError


def test_the_doctor_waits_for_no_hub_while_something_else_is_wrong(
    site: FirstDay, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        "moma_client.reports.doctor.environment.needs_hub", lambda _: True
    )
    monkeypatch.setattr(
        "moma_client.reports.doctor.environment.check_students",
        lambda config, *_: asked.append(config.student.weights),
    )
    site.set("student", architecture="test_efficientnet", weights="timm")
    _one_class(site)

    (student, _) = (f for f in _look(site) if f.check == "student")

    assert asked == ["random"]
    assert "were not fetched" in student.text


def test_a_teacher_that_is_still_starting_is_said_to_be_asked_again_later(
    tmp_path: Path, pki: Pki
) -> None:
    remote = CachedSite(tmp_path / "site", pki, 1)
    remote.write_config()

    found = examine(remote.path, ask=False, now=datetime.now(UTC))
    (teacher,) = (f for f in found if f.check == "teacher")

    assert teacher.text.startswith("cannot reach localhost:1: ")
    assert "loads its model first: run doctor again in a minute" in teacher.text


# ------------------------------------------------------------------ plan


def test_a_plan_says_the_steps_the_scenario_and_what_to_mind(
    site: FirstDay, capsys: pytest.CaptureFixture[str]
) -> None:
    site.rename("strong", "strongly stained")
    path = str(site.write())

    ended = main(["plan", "--site", path, "--epochs", "3"])
    said = capsys.readouterr().out
    main(["plan", "--site", path, "--epochs", "3", "--json"])
    found = json.loads(capsys.readouterr().out)

    assert ended == 0
    assert "warning  steps           9 in 3 epochs of 3: under 100" in said
    assert "task.classes: {'strongly stained': 'strong'}" in said
    assert found["steps_per_epoch"] == 3
    states = {(f["check"], f["state"]) for f in found["findings"]}
    assert {("steps", "warning"), ("scenario", "warning")} <= states


def test_a_refused_set_is_one_sentence(site: FirstDay) -> None:
    _one_class(site)

    with pytest.raises(DataError, match="classes: all patches to train on are"):
        _run(site)
