"""Where no student needs a teacher, a round prepares without one."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.metrics import silent_metrics
from moma_client.site.teachers import RunTeachers
from moma_client.student.factory import StudentJob, trained_as
from moma_client.student.run_identity import view_table
from moma_core.config import validated
from moma_core.data.sources.factory import open_source
from moma_core.distillation.settings import DistillationSettings
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import ROUND, CachedSite, Quarters, teaching
from tests.support.site.reference_patch_site import GOLDEN_CARD
from tests.support.site.tiny_site import local_config, write_teacher


def test_a_fallback_fills_no_cache_and_asks_for_the_reference_patch_alone(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    task = {"organ": "prostate", "task": "grades"}
    backend = Quarters(GOLDEN_CARD)
    with teaching(tmp_path / "teacher", pki, backend=backend) as served:
        site = CachedSite(tmp_path / "site", pki, served.port, task=task)
        shipped = DistillationSettings(bank_size=256)
        config = site.config.model_copy(update={"distillation": shipped})
        context = RunContext(config, threading.Event(), silent_metrics())
        teachers = RunTeachers.onboard(context, open_source(config.data))
        (found,) = teachers.prepare(ROUND, tmp_path / "run", None)
        charged = served.budget.charged("site-a")

    job = StudentJob(config, "moma", (found,), tmp_path, b"key", ROUND)
    assert job.trained_as == "ce"
    assert not job.has_teacher
    assert view_table(job) is None
    assert charged == 1
    assert not list(config.state_dir.glob("teacher-cache/*/*.cache"))
    assert "moma learns from the labels alone, as ce does" in caplog.text


def test_of_several_irrelevant_teachers_it_is_said_that_none_teaches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("first", "second"):
        card = replace(write_teacher(tmp_path / name), name=f"teacher-{name}")
        card.save(tmp_path / name / "card.json")
    one = {"mode": "local", "schedule": "frozen"}
    config = local_config(
        tmp_path, task={"organ": "prostate"}, distillation={"fallback": "auto"}
    )
    sections = [
        one
        | {"card": f"{name}/card.json", "weights_file": f"{name}/weights.safetensors"}
        for name in ("first", "second")
    ]
    values = config.model_dump(mode="json", exclude={"teacher"})
    values["teachers"] = sections
    several = validated(SiteConfig, values, tmp_path / "config.yaml")
    context = RunContext(several, threading.Event(), silent_metrics())

    teachers = RunTeachers.onboard(context, open_source(several.data))

    said = [each for each in caplog.messages if "from the labels alone" in each]
    assert len(said) == 1
    scenarios = [each.scenario for each in teachers.of_round()]
    assert trained_as("moma", several, scenarios) == "ce"
