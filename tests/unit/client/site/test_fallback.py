"""Where no student needs a teacher, a round prepares without one."""

import threading
from pathlib import Path

from moma_client.context import RunContext
from moma_client.metrics import silent_metrics
from moma_client.site.teachers import RunTeacher, RunTeachers, _Known
from moma_client.student.factory import StudentJob
from moma_client.student.run_identity import view_table
from moma_core.distillation.scenario import Scenario
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import CARD, ROUND, CachedSite

CLOSED_PORT = 1


def test_a_fallback_fills_no_cache_and_asks_nobody(tmp_path: Path, pki: Pki) -> None:
    site = CachedSite(tmp_path, pki, CLOSED_PORT, distillation={"fallback": "auto"})
    context = RunContext(site.config, threading.Event(), silent_metrics())
    known = _Known(context, CARD, Scenario("irrelevant", "another organ", None))
    teachers = RunTeachers(context, (RunTeacher(known, is_verified=False),))

    (found,) = teachers.prepare(ROUND, tmp_path / "run", None)

    job = StudentJob(site.config, "moma", (found,), tmp_path, b"key", ROUND)
    assert job.trained_as == "ce"
    assert view_table(job) is None
    assert not list(site.config.state_dir.glob("teacher-cache/*/*.cache"))
