"""What a site with two teachers is told of each: plan, doctor, preview, receipts."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from moma_client.cli.main import main
from moma_client.egress.outcome import StudentOutcome
from moma_client.egress.to_coordinator import CoordinatorEgress
from moma_client.reports.doctor.run import examine
from moma_client.student.export import export_student
from moma_client.student.files import read_card
from moma_core.federation.task import RoundReport, RoundTask
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import LABELLED, PATCHES, ROUND, VIEWS
from tests.support.site.several_site import (
    GOOD,
    NOISE,
    SeveralSite,
    ports_of,
    two_teachers,
)
from tests.support.teacher.sealed import key_of

FIRST_ROUND = 4 * LABELLED + (PATCHES - LABELLED)
KEYS = [str(key_of(name).public) for name in (GOOD, NOISE)]


class _Sent:
    """Keeps the reports that leave."""

    def __init__(self) -> None:
        self.reports: list[RoundReport] = []

    def report(self, task: RoundTask, report: RoundReport) -> None:
        self.reports.append(report)

    def fail(self, task: RoundTask) -> None:
        raise AssertionError(task)


def _told(site: SeveralSite, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--site", str(site.path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_plan_and_preview_have_a_part_for_each_teacher(
    tmp_path: Path, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    with two_teachers(tmp_path, pki, grants={NOISE: 40}) as served:
        site = SeveralSite(tmp_path / "site", pki, ports_of(served))
        site.write_config()
        plan = _told(site, capsys, "plan")
        shown = _told(site, capsys, "egress", "--preview")
        main(["plan", "--site", str(site.path)])
        text = capsys.readouterr().out

    by_name = {each["teacher"]: each for each in plan["teachers"]}
    assert by_name[GOOD]["left"] == 10_000
    assert by_name[NOISE]["left"] == 40
    assert by_name[GOOD]["queries"] == by_name[NOISE]["queries"] == VIEWS * PATCHES
    assert "teacher      teacher-b, one of 2" in text
    assert "ask the owner of teacher teacher-b for budget.sites.site-a: 432" in text
    assert (shown["encoding"], shown["others"][0]["encoding"]) == ("raw", "raw")
    assert shown["others"][0]["plan"]["teacher"] == NOISE


def test_doctor_looks_at_each_teacher_by_name(tmp_path: Path, pki: Pki) -> None:
    with two_teachers(tmp_path, pki, grants={NOISE: 0}) as served:
        site = SeveralSite(tmp_path / "site", pki, ports_of(served))
        site.write_config()
        found = list(examine(site.path, ask=False, now=datetime.now(UTC)))

    by_check = {
        (each.check, each.facts.get("teacher")): each
        for each in found
        if each.facts.get("teacher")
    }
    assert by_check["teacher", GOOD].state == by_check["teacher", NOISE].state == "ok"
    assert by_check["budget", GOOD].state == "ok"
    assert by_check["budget", NOISE].state == "problem"
    assert by_check["budget", NOISE].text.startswith("teacher-b: a run asks 432")
    assert by_check["scenario", GOOD].facts["scenario"] == "same"
    assert by_check["scenario", NOISE].facts["scenario"] == "relevant"


def test_receipts_reports_and_export_keep_the_teachers_apart(
    tmp_path: Path,
    pki: Pki,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with two_teachers(tmp_path, pki) as served:
        site = SeveralSite(tmp_path / "site", pki, ports_of(served))
        site.write_config()
        teachers = site.prepared(site.onboard(), ROUND)
        outcome = site.train_with(teachers, ROUND, "moma")

    for name in (GOOD, NOISE):
        proved = _told(site, capsys, "audit", "verify", "--teacher", name)
        assert (proved["teacher"], proved["patches_charged"]) == (name, FIRST_ROUND)
    assert main(["audit", "verify", "--site", str(site.path)]) == 1
    assert "--teacher teacher-a or teacher-b" in caplog.text

    assert _logs_shown(site, outcome) == [NOISE, GOOD]

    export_student(
        site.config, tmp_path / "out", run=None, method="moma", form="safetensors"
    )
    provenance = read_card(tmp_path / "out").provenance
    assert provenance is not None
    assert provenance.teacher_key == ", ".join(KEYS)
    assert provenance.queries[NOISE]["charged"] == 160  # in steps of forty
    assert provenance.patches_charged == 320
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert f"| of {NOISE} | weight 0.500 in the last round; 160 patches asked" in card


def _logs_shown(site: SeveralSite, outcome: StudentOutcome) -> list[str]:
    """Returns of which teacher's log each of two rounds' reports has a state."""
    sent, egress = _Sent(), CoordinatorEgress(site.config, site.metrics)
    for number in (1, 2):
        egress.report(sent, replace(ROUND, round=number), {"moma": outcome})
    states = [report.checkpoint for report in sent.reports]
    return [state.origin.split("/")[1] for state in states if state is not None]
