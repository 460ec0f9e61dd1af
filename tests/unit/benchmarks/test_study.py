"""Studies on anybody's patches: each preset on a small tree, one from end to end."""

import csv
import itertools
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.quality.training import Course
from benchmarks.study.__main__ import main
from benchmarks.study.bench import Bench
from benchmarks.study.patches import divide, groups_of
from benchmarks.study.preset import Study, read_study
from benchmarks.study.teachers import make_teacher, read_network
from benchmarks.study.trials import StudyTrial, final, study_fingerprint, tuning
from benchmarks.study.worth import worth_on
from moma_core.data.sources.factory import open_source
from moma_core.data.sources.paper_datasets import COLON_CLASSES
from moma_core.distillation.settings import DistillationSettings
from moma_core.errors import ConfigError, DataError
from moma_core.models.backbone import Backbone, Normalise

_PAPER = Path(__file__).resolve().parents[3] / "benchmarks" / "paper"
_SIDE_PX = 32
_COURSE = Course(steps=1, rate=0.1, seed=0, recipe="tissue", views=1)
_TINY = {"architecture": "mobilenetv3_small_050", "weights": "random"}


def _picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(
        0, 256, (_SIDE_PX, _SIDE_PX, 3), dtype=np.uint8
    )
    Image.fromarray(pixels).save(path)


def _nct(root: Path) -> Path:
    for place, (part, name) in enumerate(
        (part, name)
        for part in ("NCT-CRC-HE-100K", "CRC-VAL-HE-7K")
        for name in COLON_CLASSES
    ):
        for number in range(9):
            _picture(root / part / name / f"{number}.png", 100 * place + number)
    return root


def _panda(root: Path) -> Path:
    for slide in range(15):
        for label in (2, 3, 4, 5):
            name = f"slide{slide}/x_class_{label}.png"
            _picture(root / name, 10 * slide + label)
    return root


def _usz(root: Path) -> Path:
    parts = [("train_validation_patches_750", core) for core in ("ZT111", "ZT76")]
    parts.append(("test_patches_750/patho_1", "ZT80"))
    for place, (folder, core) in enumerate(parts):
        for number in range(8):
            name = f"{core}_{number}"
            for label in range(4):
                _picture(
                    root / folder / name / f"{name}_patch_1_class_{label}.png",
                    1000 * place + 10 * number + label,
                )
    return root


def _crc_val(root: Path) -> Path:
    for place, name in enumerate(COLON_CLASSES):
        for number in range(6):
            _picture(root / name / f"{number}.png", 100 * place + number)
    network = Backbone(_TINY["architecture"], len(COLON_CLASSES))
    save_file(network.model.state_dict(), root.with_name("teacher.safetensors"))
    return root


def _manifest(root: Path) -> Path:
    lines = ["path,label,patient_id,split"]
    for split in ("train", "unseen"):
        for number in range(12):
            for label in ("benign", "gleason3", "gleason4"):
                name = f"{split}{number}-{label}.png"
                _picture(root / name, len(lines))
                lines.append(f"{name},{label},{split}-{number},{split}")
    path = root / "manifest.csv"
    path.write_text("\n".join(lines), "utf-8")
    return path


_TREES: dict[str, Callable[[Path], Path]] = {
    "nct_crc": _nct,
    "panda": _panda,
    "usz": _usz,
    "crc_val": _crc_val,
    "prostate_two_centres": _manifest,
    "prostate_quick": _manifest,
}


def _small(study: Study, place: Path) -> Study:
    """Returns a preset with its patches, and all else as small as it goes."""
    values: dict[str, Any] = study.model_dump()
    key = "path" if values["data"]["kind"] == "csv_manifest" else "root"
    values["data"][key] = place
    values["students"] = {"tiny": _TINY}
    of_others = {"weights_file": place.with_name("teacher.safetensors")}
    for teacher in values["teachers"].values():
        model = _TINY | (of_others if teacher["kind"] == "file" else {})
        teacher |= {"model": model, "steps": 1}
    values |= {"labels": 6, "unlabelled": 6, "batch_size": 4, "steps": 2}
    values |= {"size_px": _SIDE_PX, "views": 2, "evaluations": 1, "seeds": 1}
    return Study.model_validate(values)


def test_every_preset_has_a_tree() -> None:
    assert {path.stem for path in _PAPER.glob("*.yaml")} == set(_TREES)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(kept)


@pytest.mark.parametrize("name", _TREES)
def test_a_preset_trains_and_measures_on_a_tree_of_its_layout(
    name: str, tmp_path: Path
) -> None:
    preset = read_study(_PAPER / f"{name}.yaml")
    study = _small(preset, _TREES[name](tmp_path / "data"))
    planned = {trial.row: trial for trial in final(study, {}) if trial.seed == 0}

    bench = Bench(study, tmp_path / "work")
    lines = [bench.run(planned[row]) for row in preset.variants]

    assert "gated" in preset.variants
    splits = ["validation"] if name == "crc_val" else ["validation", "unseen"]
    for line, split in itertools.product(lines, splits):
        assert 0 <= float(str(line[f"{split}_macro_f1"])) <= 1
        assert len(str(line[f"{split}_predicted"])) == len(str(line[f"{split}_truth"]))
    assert all(line["answers"] for line in lines)
    assert {"moma", "ce", "kd", "hint", "teacher", "probe", "head"} <= set(planned)
    assert name == "crc_val" or "ft" in planned


def _prostate(tmp_path: Path, **changes: Any) -> Study:
    preset = read_study(_PAPER / "prostate_two_centres.yaml")
    study = _small(preset, _manifest(tmp_path / "data"))
    return Study.model_validate({**study.model_dump(), **changes})


def test_by_groups_no_patient_is_in_two_parts(tmp_path: Path) -> None:
    study = _prostate(tmp_path, division="groups", unlabelled=100)
    source = open_source(study.data)

    parts = divide(study, source, seed=3)

    rows = [parts.teacher, np.concatenate(parts.share), parts.validation, parts.unseen]
    patients = [set(source.index.patients[each].tolist()) for each in rows]
    assert all(
        one.isdisjoint(other)
        for place, one in enumerate(patients)
        for other in patients[place + 1 :]
    )
    assert [len(each) for each in patients] == [5, 5, 2, 12]
    assert np.bincount(source.index.labels[parts.share.labelled]).tolist() == [2] * 3


def test_the_teacher_of_others_needs_no_patch_and_sees_pixels_as_it_was_made_for(
    tmp_path: Path,
) -> None:
    study = _small(read_study(_PAPER / "crc_val.yaml"), _crc_val(tmp_path / "data"))
    source = open_source(study.data)

    parts = divide(study, source, seed=3)
    teacher = make_teacher(study, "same", parts, _COURSE, tmp_path)

    assert len(parts.teacher) == 0
    assert len(parts.validation) == len(source.index) // 2
    assert not set(parts.validation) & set(np.concatenate(parts.share))
    assert (teacher.mean, teacher.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert Backbone(teacher.architecture, 2).mean != teacher.mean
    plan = study.teachers["same"]
    bias, kept = "classifier.bias", load_file(str(plan.model.weights_file))
    assert torch.equal(teacher.model.state_dict()[bias], kept[bias])


def test_a_file_has_timms_names_or_ours(tmp_path: Path) -> None:
    kept, path = Backbone(_TINY["architecture"], 2), tmp_path / "kept.safetensors"
    for weights in (kept.state_dict(), kept.model.state_dict()):
        save_file(weights, path)
        found = Backbone(_TINY["architecture"], 2)
        read_network(found, path)
        assert torch.equal(found.classifier.weight, kept.classifier.weight)


def test_a_file_of_another_network_is_a_sentence(tmp_path: Path) -> None:
    save_file({"head": torch.zeros(3)}, tmp_path / "other.safetensors")

    with pytest.raises(ConfigError, match=r"are not those of timm's mobile"):
        read_network(Backbone(_TINY["architecture"], 2), tmp_path / "other.safetensors")


def test_a_class_that_a_part_lacks_is_told(tmp_path: Path) -> None:
    study = _prostate(tmp_path, division="groups")
    source = open_source(study.data)
    source.index.patients[source.index.labels == 2] = 0

    with pytest.raises(DataError, match="lacks a class: write division: patches"):
        divide(study, source, seed=3)


def test_what_has_no_patient_and_no_slide_is_a_group_of_its_own(
    tmp_path: Path,
) -> None:
    source = open_source(_nct(tmp_path))

    rows = source.index.rows("train")[:5]

    assert groups_of(source.index, rows).tolist() == [0, 1, 2, 3, 4]


def test_a_study_runs_from_end_to_end_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _prostate(
        tmp_path,
        methods=("moma", "ce"),
        variants={"averaged": {"changes": {}, "course": {"ema_decay": 0.5}}},
        scales=(1.0,),
        rates=(0.02,),
        repeats=2,
        evaluations=2,
        steps=4,
    )
    kept = {"same": study.teachers["same"]}
    study = study.model_copy(update={"teachers": kept})
    monkeypatch.setattr("benchmarks.study.__main__.read_study", lambda _: study)
    command = ["any.yaml", "--results", str(tmp_path), "--work", str(tmp_path / "work")]

    assert main([*command, "--all", "--minutes", "0"]) == 0
    assert "the time is up" in capsys.readouterr().out
    assert main([*command, "--all"]) == 0
    first = capsys.readouterr().out
    assert main([*command, "--all"]) == 0
    second = capsys.readouterr().out
    assert main([*command, "--summary"]) == 0
    tables = capsys.readouterr().out

    assert "failed" not in first
    assert second.split("\n")[:3] == ["0 trials to do"] * 3
    assert "Standard deviation of one trial that is run again: moma" in tables
    assert "### same: student tiny" in tables
    assert "| averaged | 1 |" in tables
    assert "Not worse than ce by 0.01 of macro-F1, shown:" in tables
    in_centre = tables.partition("| in-centre | - ce (95 %) | - moma (95 %) |")[2]
    assert re.search(r"\| averaged \| [+-]0\.\d{3} \(", in_centre)
    assert re.search(r"\| ce \|  \| [+-]", in_centre)
    with (tmp_path / "study-prostate-two-centres.csv").open(newline="") as file:
        stages = Counter(line["stage"] for line in csv.DictReader(file))
    assert stages == {"noise": 4, "tuning": 3, "final": 6}
    shutil.rmtree(tmp_path / "work")


def test_the_unseen_centre_is_read_in_the_final_stage_alone(tmp_path: Path) -> None:
    study = _prostate(tmp_path)
    trial = next(tuning(study))

    line = Bench(study, tmp_path / "work").run(trial)

    assert not any(name.startswith("unseen") for name in line)


def test_without_tuning_nothing_is_frozen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = str(_PAPER / "panda.yaml")

    assert main([preset, "--freeze", "--results", str(tmp_path)]) == 1
    assert "tuning trials are missing" in capsys.readouterr().err


def test_every_row_has_as_many_tuning_trials() -> None:
    study = read_study(_PAPER / "nct_crc.yaml")
    counts: dict[tuple[str, str], int] = {}
    for trial in tuning(study):
        at = (trial.scenario, trial.row)
        counts[at] = counts.get(at, 0) + 1

    assert set(counts.values()) == {4}


def test_the_weights_that_ship_are_tried_once_and_are_those_that_ship() -> None:
    study = read_study(_PAPER / "prostate_quick.yaml")

    tried = Counter(trial.row for trial in tuning(study))

    assert tried == dict.fromkeys(("moma", "gated", "kd", "ce", "hint", "ft"), 3) | {
        "shipped": 1
    }
    default = DistillationSettings()
    assert study.variants["shipped"].changes == {
        "contrastive_weight": default.contrastive_weight,
        "distillation_weight": default.distillation_weight,
    }


def test_other_settings_make_a_line_stale_and_another_folder_does_not(
    tmp_path: Path,
) -> None:
    study = _prostate(tmp_path)
    trial: StudyTrial = next(tuning(study))
    moved = study.model_copy(
        update={"data": study.data.model_copy(update={"path": tmp_path / "other.csv"})}
    )
    longer = study.model_copy(update={"steps": 9})

    before = study_fingerprint(study, trial)
    assert study_fingerprint(moved, trial) == before
    assert study_fingerprint(longer, trial) != before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"methods": ("momo",)}, "there is no method 'momo'"),
        ({"variants": {"kd": {"changes": {}}}}, "'kd' has the name of a method"),
    ],
)
def test_a_preset_that_breaks_a_rule_is_refused(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        _prostate(tmp_path, **changes)


def test_a_missing_preset_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_study(tmp_path / "none.yaml")


def test_a_network_is_worth_no_more_than_itself(tmp_path: Path) -> None:
    source = open_source(_manifest(tmp_path))
    torch.manual_seed(0)
    network = Backbone(_TINY["architecture"], 3)
    pair = network, Normalise(network.mean, network.std)

    found = worth_on(source, pair, pair, size_px=_SIDE_PX, per_class=10)

    assert (found.patches, found.gain.value) == (30, 0)
    assert found.outcome == "not shown"
