"""A probe before a run: told before, charged like a query, and not asked twice."""

import json
from pathlib import Path

import numpy as np
import pytest

from moma_client.cli.main import main
from moma_client.reports.teacher_probe import plan_probe
from moma_core.data.patch import TRAIN
from moma_core.data.sources.factory import open_source
from moma_core.errors import DataError
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import CachedSite, teaching

PROBED = 24


def test_a_probe_is_told_before_charged_and_kept_for_the_run(
    tmp_path: Path, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching(tmp_path / "teacher", pki, grant=1000) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        site.write_config()
        command = ["plan", "--site", str(site.path), "--probe", str(PROBED)]
        assert main(command) == 0
        text = capsys.readouterr().out
        charged = served.budget.charged("site-a")
        assert main([*command, "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
        charged_again = served.budget.charged("site-a")

    notice = f"{PROBED} patches go to teacher teacher-a now, charged to the budget"
    assert text.index(notice) < text.index("a linear probe on the embeddings of")
    assert charged == charged_again
    assert PROBED <= charged <= PROBED + 1  # and a reference patch, if there is one
    assert again["in_bank"] == PROBED
    (found,) = (each for each in again["findings"] if each["check"] == "probe")
    assert found["outcome"] in ("worth it", "not shown", "not worth it")
    assert found["patches"] == PROBED


def test_a_probe_beyond_the_budget_sends_no_patch(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    with teaching(tmp_path / "teacher", pki, grant=PROBED - 1) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        site.write_config()
        code = main(["plan", "--site", str(site.path), "--probe", str(PROBED)])
        charged = served.budget.charged("site-a")

    assert code != 0
    assert charged == 0
    assert "are left: ask with fewer" in caplog.text


def test_without_probe_nothing_is_asked(
    tmp_path: Path, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching(tmp_path / "teacher", pki, grant=1000) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        site.write_config()
        assert main(["plan", "--site", str(site.path)]) == 0
        charged = served.budget.charged("site-a")

    assert charged == 0
    assert "probe" not in capsys.readouterr().out


def test_a_probe_takes_labelled_training_patches_of_every_class(
    tmp_path: Path, pki: Pki
) -> None:
    site = CachedSite(tmp_path / "site", pki, port=1)
    source = open_source(site.config.data)

    probe = plan_probe(site.config, source, 20)

    assert np.isin(probe.rows, source.index.rows(TRAIN, labelled=True)).all()
    counts = np.bincount(source.index.labels[probe.rows])
    assert counts.sum() == 20
    assert len(counts) == len(source.class_names)
    with pytest.raises(
        DataError, match="--probe 5 of 24 labelled patches says nothing"
    ):
        plan_probe(site.config, source, 5)
