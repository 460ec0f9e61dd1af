"""Where no student needs a teacher, a round prepares without one."""

import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.metrics import silent_metrics
from moma_client.reports.doctor.run import examine
from moma_client.site.teachers import RunTeachers
from moma_client.student.factory import StudentJob, trained_as
from moma_client.student.run_identity import view_table
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


def _of_two_irrelevant_teachers(folder: Path) -> SiteConfig:
    sections = []
    for name in ("first", "second"):
        card = replace(write_teacher(folder / name), name=f"teacher-{name}")
        card.save(folder / name / "card.json")
        section = {"mode": "local", "schedule": "frozen"}
        section |= {"card": f"{name}/card.json"}
        section |= {"weights_file": f"{name}/weights.safetensors"}
        sections.append(section)
    config = local_config(
        folder, task={"organ": "prostate"}, distillation={"fallback": "auto"}
    )
    values = config.model_dump(mode="json", exclude={"teacher"})
    values["teachers"] = sections
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return SiteConfig.from_yaml(folder / "config.yaml")


def test_of_several_irrelevant_teachers_a_run_says_once_that_none_teaches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = _of_two_irrelevant_teachers(tmp_path)
    context = RunContext(config, threading.Event(), silent_metrics())

    teachers = RunTeachers.onboard(context, open_source(config.data))

    said = [each for each in caplog.messages if "from the labels alone" in each]
    assert len(said) == 1
    scenarios = [each.scenario for each in teachers.of_round()]
    assert trained_as("moma", config, scenarios) == "ce"


def test_of_several_irrelevant_teachers_doctor_says_once_that_none_teaches(
    tmp_path: Path,
) -> None:
    _of_two_irrelevant_teachers(tmp_path)

    found = examine(tmp_path / "config.yaml", ask=False, now=datetime.now(UTC))

    said = [each for each in found if "from the labels alone" in each.text]
    assert [(each.check, each.state) for each in said] == [("scenario", "warning")]
