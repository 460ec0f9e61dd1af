"""A site whose labels do not fit its teacher's classes is told so, and nobody else."""

import json
from pathlib import Path

import pytest

from moma_client.cli.main import main
from moma_client.site.teachers import RunTeachers
from moma_core.data.sources.demo_tissue import CLASS_NAMES
from moma_core.data.sources.factory import open_source
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import (
    LABELLED,
    PATCHES,
    ROUND,
    CachedSite,
    teaching,
)
from tests.support.site.several_site import Expert

FIRST_ROUND = 4 * LABELLED + (PATCHES - LABELLED)
FIRST, SECOND = CLASS_NAMES[0], CLASS_NAMES[-1]
RIGHT = 11  # patches of the other classes
EXCHANGED = {
    "organ": "colon",
    "task": "stain",
    "classes": {FIRST: SECOND, SECOND: FIRST},
}
SENTENCE = f"with '{FIRST}' and '{SECOND}' exchanged it would with {LABELLED}"


def _prepared(site: CachedSite) -> None:
    teachers = RunTeachers.onboard(site.context, open_source(site.config.data))
    teachers.prepare(ROUND, site.folder(ROUND), None)


def test_exchanged_classes_are_told_once_the_views_are_here(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with teaching(tmp_path / "teacher", pki, backend=Expert()) as served:
        site = CachedSite(tmp_path / "site", pki, served.port, task=EXCHANGED)
        _prepared(site)
        charged = served.budget.charged("site-a")

    (told,) = (each for each in caplog.records if each.message.startswith("labels: "))
    assert told.levelname == "WARNING"
    assert f"agrees with {RIGHT} of {LABELLED} labels" in told.message
    assert SENTENCE in told.message
    assert charged == FIRST_ROUND  # and no query beside the round's


def test_a_teacher_that_agrees_is_no_warning(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with teaching(tmp_path / "teacher", pki, backend=Expert()) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        _prepared(site)

    (told,) = (each for each in caplog.records if each.message.startswith("labels: "))
    assert told.levelname == "INFO"
    assert f"agrees with {LABELLED} of {LABELLED} labels" in told.message


def test_a_probe_tells_it_before_the_run(
    tmp_path: Path, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching(tmp_path / "teacher", pki, backend=Expert()) as served:
        site = CachedSite(tmp_path / "site", pki, served.port, task=EXCHANGED)
        site.write_config()
        command = ["plan", "--site", str(site.path), "--probe", str(LABELLED)]
        assert main([*command, "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)

    (found,) = (each for each in plan["findings"] if each["check"] == "labels")
    assert found["state"] == "warning"
    assert SENTENCE in found["text"]
    assert found["agreed_if_exchanged"] == LABELLED
