import json
from pathlib import Path

import numpy as np
import pytest

from moma_core.data.patch import PatchIndex
from moma_core.data.sources.csv_manifest import list_csv_manifest
from moma_core.data.sources.fault_tolerant import TolerantSource
from moma_core.data.sources.image_files import FilePatches
from moma_core.errors import StoppedError
from moma_core.evaluation.grouping import grouping_of
from moma_core.evaluation.metrics import Evaluator
from moma_core.models.backbone import Normalise
from tests.support.machine.pictures import write_picture
from tests.support.site.tiny import ConvEncoder

PATCHES = 130  # three batches
NORMALISE = Normalise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FilePatches:
    folder = tmp_path_factory.mktemp("patches")
    write_picture(folder / "patch.png")
    lines = ["path,label,split"]
    lines += [f"patch.png,{'ab'[row % 2]},validation" for row in range(PATCHES)]
    (folder / "m.csv").write_text("\n".join(lines))
    return list_csv_manifest(folder / "m.csv").patches()


def test_a_split_is_measured_on_its_own_patches(source: FilePatches) -> None:
    evaluator = Evaluator(ConvEncoder(classes=2), NORMALISE, 16)

    found = evaluator.measure(source, "validation", stopped=lambda: False)

    assert found.values("validation_")["validation_accuracy"] == pytest.approx(0.5)
    assert (found.patches, found.groups, found.counted) == (PATCHES, PATCHES, "patches")
    assert found.figures["accuracy"].interval is not None


def test_a_split_without_patches_says_so(source: FilePatches) -> None:
    evaluator = Evaluator(ConvEncoder(classes=2), NORMALISE, 16)

    found = evaluator.measure(source, "unseen", stopped=lambda: False)

    assert list(found.lines("unseen_")) == [
        "unseen  no figure: there is no labelled patch"
    ]
    assert json.loads(json.dumps(found.all_values("unseen_")))["unseen_auroc"] is None


def test_an_evaluation_hears_a_stop_between_two_batches(source: FilePatches) -> None:
    evaluator = Evaluator(ConvEncoder(classes=2), NORMALISE, 16)
    looks = iter([False, True])

    with pytest.raises(StoppedError, match="while evaluating"):
        evaluator.measure(source, "validation", stopped=lambda: next(looks))


def test_patches_are_drawn_by_patient_else_by_slide_else_alone() -> None:
    index = PatchIndex(
        labels=np.zeros(7, np.int16),
        splits=np.zeros(7, np.uint8),
        patients=np.array([0, 0, 1, -1, -1, -1, -1], np.int32),
        slides=np.array([5, 6, 5, 0, 0, -1, -1], np.int32),
    )

    every = grouping_of(index, np.arange(7))

    codes = every.codes.tolist()
    assert codes[0] == codes[1]
    assert codes[3] == codes[4]
    assert len(set(codes)) == 5
    assert every.counted == "patients and slides and patches"
    assert grouping_of(index, np.array([0, 2])).counted == "patients"


def test_a_patch_that_another_stands_for_is_in_no_figure(tmp_path: Path) -> None:
    for row in range(8):
        write_picture(tmp_path / f"{row}.png")
    (tmp_path / "3.png").write_bytes(b"broken")
    lines = ["path,label,split,patient_id"]
    lines += [f"{row}.png,{'ab'[row % 2]},validation,p{row}" for row in range(8)]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    source = TolerantSource(list_csv_manifest(tmp_path / "m.csv").patches(), 1)

    found = Evaluator(ConvEncoder(classes=2), NORMALISE, 16).measure(
        source, "validation", stopped=lambda: False
    )

    assert (found.patches, found.groups, found.counted) == (7, 7, "patients")
