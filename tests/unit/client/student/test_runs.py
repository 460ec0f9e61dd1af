"""A site's runs: how they are listed, named and found."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moma_client.cli.main import main
from moma_client.config.site import SiteConfig
from moma_client.student.files import save_student
from moma_client.student.runs import find_run, list_runs, run_name, students_of
from moma_core.data.sources.demo_tissue import CLASS_NAMES
from moma_core.errors import ConfigError
from moma_core.models.backbone import Backbone
from tests.support.site.tiny_site import local_config
from tests.unit.client.student.test_files import CARD

FIRST, SECOND, LAST = "run-1-0123456789ab", "run-2-0123456789ab", "run-2-ba9876543210"


@pytest.fixture
def config(tmp_path: Path) -> SiteConfig:
    return local_config(tmp_path, baselines=["ce"])


def _write(config: SiteConfig, name: str, *lines: dict[str, Any], at: float) -> Path:
    folder = config.state_dir / "runs" / name
    folder.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "figures.jsonl").write_text(text)
    os.utime(folder, (at, at))
    return folder


def _round(number: int, kind: str = "train", **figures: float) -> dict[str, Any]:
    found = {f"validation_{name}": value for name, value in figures.items()}
    return {"round": number, "kind": kind, "figures": found, "told": {}}


def _student(folder: Path, method: str) -> None:
    (folder / method).mkdir()
    (folder / method / "student.json").write_text("{}")


def test_a_run_is_listed_with_all_that_tells_it_from_others(
    tmp_path: Path, config: SiteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    best = _round(2, macro_f1=0.75, accuracy=0.9)
    interval = {"patches": 60, "low": 0.5, "high": 0.875}
    best["details"] = {"moma": {"validation": {"figures": {"macro_f1": interval}}}}
    lines = (_round(1, macro_f1=0.5), best, _round(2, "close", macro_f1=0.7))
    folder = _write(config, FIRST, *lines, at=1)
    with (folder / "figures.jsonl").open("a") as file:
        file.write('{"round": 3, "ki')  # torn by a kill
    _student(folder, "ce")
    _student(folder, "moma")
    capsys.readouterr()

    assert main(["runs", "--site", str(tmp_path / "config.yaml")]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "run-1: 2 rounds, finished",
        f"  folder    {folder}",
        "  students  moma, ce",
        "  best      moma validation_macro_f1 0.750 (95 % 0.500 to 0.875) n=60 in "
        "round 2",
    ]


def test_a_baseline_may_have_the_best_figure(config: SiteConfig) -> None:
    line = _round(1, macro_f1=0.5)
    line["figures"]["ce_validation_macro_f1"] = 0.6
    folder = _write(config, FIRST, line, at=1)
    for method in ("ce", "moma"):
        _student(folder, method)

    (run,) = list_runs(config)

    assert run.best is not None
    assert (run.best.method, run.best.value, run.is_over) == ("ce", 0.6, False)
    assert run.as_json()["best"]["figure"] == "validation_macro_f1"


def test_no_run_yet_is_no_error(
    tmp_path: Path, config: SiteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    site = ["--site", str(tmp_path / "config.yaml")]

    assert main(["runs", *site]) == 0
    assert main(["runs", "--json", *site]) == 0

    said, as_json = capsys.readouterr().out.splitlines()
    assert said == f"there is no run in {config.state_dir} yet"
    assert json.loads(as_json) == []


def test_a_run_is_found_by_the_coordinators_name_or_by_its_folder(
    config: SiteConfig,
) -> None:
    for at, name in enumerate((FIRST, SECOND)):
        _write(config, name, at=at)

    assert find_run(config, "run-1").name == FIRST
    assert find_run(config, SECOND).name == SECOND
    assert find_run(config, None).name == SECOND  # the newest


def test_a_name_of_two_runs_wants_the_folders_name(config: SiteConfig) -> None:
    for at, name in enumerate((SECOND, LAST)):
        _write(config, name, at=at)

    with pytest.raises(ConfigError, match=f"name one: {SECOND}, {LAST}"):
        find_run(config, "run-2")
    assert find_run(config, LAST).name == LAST


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (FIRST, "run-1"),
        ("0123456789ab", ""),
        ("run-1", ""),
        ("a-b-0123456789ab", "a-b"),
    ],
)
def test_a_folder_has_the_coordinators_name_in_it(folder: str, name: str) -> None:
    assert run_name(folder) == name


def test_evaluate_says_what_it_read_and_every_figure_has_its_n(
    tmp_path: Path, config: SiteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    folder = _write(config, FIRST, at=1)
    card = replace(CARD, class_names=CLASS_NAMES)
    network = Backbone(CARD.architecture, len(CLASS_NAMES))
    save_student(folder / "moma", network, card)
    words = ["evaluate", "--site", str(tmp_path / "config.yaml"), "--run", "run-1"]

    assert main([*words, "--split", "unseen"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main([*words, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)["moma"]

    weights = folder / "moma" / "student.safetensors"
    assert lines[0].startswith(
        f"moma  read {weights}, the last student, after step {CARD.steps}, SHA-256"
    )
    figures = [line for line in lines[1:] if "unseen_" in line]
    assert figures
    assert all("n=" in line or "none: " in line for line in figures)
    assert students_of(folder) == ["moma"]
    assert values["details"]["weights"] == str(weights)
    assert set(values["details"]["unseen"]["recall"]) <= set(CLASS_NAMES)
    assert 0 <= values["unseen_accuracy"] <= 1
