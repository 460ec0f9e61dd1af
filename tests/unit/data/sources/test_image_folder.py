import pickle
from pathlib import Path

import numpy as np
import pytest

from moma_core.data.patch import SPLITS, TRAIN, UNKNOWN_PATIENT, UNSEEN, VALIDATION
from moma_core.data.sources.image_folder import list_image_folder
from moma_core.data.splits import SplitFractions
from moma_core.errors import DataError
from tests.support.machine.pictures import noise, write_picture


def test_folders_name_split_and_class(tmp_path: Path) -> None:
    write_picture(tmp_path / "train/tumour/1.png", seed=1)
    write_picture(tmp_path / "val/normal/2.png", seed=2)
    write_picture(tmp_path / "test/tumour/deeper/3.png", seed=3)

    source = list_image_folder(tmp_path).patches()

    assert source.class_names == ("normal", "tumour")
    rows = [source.index.rows(split).item() for split in (TRAIN, VALIDATION, UNSEEN)]
    assert source.index.labels[rows].tolist() == [1, 0, 1]
    for row, seed in zip(rows, (1, 2, 3), strict=True):
        assert np.array_equal(source.read(row).pixels, noise(seed))


def test_without_split_folders_patients_are_divided(tmp_path: Path) -> None:
    for patient in range(10):
        for number in range(2):
            write_picture(tmp_path / f"a/p{patient}_{number}.png")
    fractions = SplitFractions(train=0.5, validation=0.3, unseen=0.2)

    source = list_image_folder(tmp_path, patient_pattern=r"^(p\d+)_").patches(
        fractions=fractions
    )

    assert [len(source.index.rows(split)) for split in SPLITS] == [10, 6, 4]
    for row in range(len(source.index)):
        patient = source.index.patients[row]
        same = source.index.splits[source.index.patients == patient]
        assert len(set(same.tolist())) == 1
    assert source.read(0).patient == "p0"


def test_without_a_pattern_no_patient_is_known(tmp_path: Path) -> None:
    write_picture(tmp_path / "a/1.png")

    source = list_image_folder(tmp_path).patches()

    assert source.index.patients.tolist() == [UNKNOWN_PATIENT]
    assert source.read(0).patient is None


def test_given_class_names_fix_the_order(tmp_path: Path) -> None:
    write_picture(tmp_path / "train/low/1.png")
    write_picture(tmp_path / "train/high/2.png")

    source = list_image_folder(tmp_path).patches(class_names=("low", "mid", "high"))

    assert sorted(source.index.labels.tolist()) == [0, 2]


def test_a_class_folder_that_was_not_named_is_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "train/odd/1.png")

    with pytest.raises(DataError, match="label 'odd' is not in"):
        list_image_folder(tmp_path).patches(class_names=("low", "high"))


def test_a_pattern_that_does_not_fit_names_the_images_it_does_not_fit(
    tmp_path: Path,
) -> None:
    for name in ("p1.png", "x.png", "y/z.png"):
        write_picture(tmp_path / "a" / name)

    with pytest.raises(DataError, match="does not fit every image") as caught:
        list_image_folder(tmp_path, patient_pattern=r"(p\d+)\.").patches()

    assert str(caught.value).endswith(
        ": not a/x.png, a/y/z.png; it is searched below the class folder"
    )


@pytest.mark.parametrize("stray", ["1.png", "train/1.png"])
def test_an_image_outside_the_class_folders_is_refused(
    tmp_path: Path, stray: str
) -> None:
    write_picture(tmp_path / "train/a/0.png")
    write_picture(tmp_path / stray)

    with pytest.raises(DataError, match="outside the class folders"):
        list_image_folder(tmp_path).patches()


def test_a_missing_or_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        list_image_folder(tmp_path / "none").patches()
    with pytest.raises(DataError, match="holds no patches"):
        list_image_folder(tmp_path).patches()


def test_a_patch_of_another_size_is_refused_when_read(tmp_path: Path) -> None:
    write_picture(tmp_path / "a/1.png", side_px=20)

    source = list_image_folder(tmp_path).patches(patch_size_px=16)

    with pytest.raises(DataError, match="20x20 px, expected 16x16"):
        source.read(0)


def test_a_file_that_became_a_link_out_of_the_folder_is_not_opened(
    tmp_path: Path,
) -> None:
    outside = write_picture(tmp_path / "outside.png")
    inside = write_picture(tmp_path / "data/a/1.png")
    source = list_image_folder(tmp_path / "data").patches()
    inside.unlink()
    inside.symlink_to(outside)

    with pytest.raises(DataError, match="row 0 leads out of the data folder"):
        source.read(0)


def test_a_source_can_be_sent_to_another_process(tmp_path: Path) -> None:
    write_picture(tmp_path / "a/1.png", seed=4)
    source = list_image_folder(tmp_path).patches()

    # our own object
    copy = pickle.loads(pickle.dumps(source))

    assert np.array_equal(copy.read(0).pixels, noise(4))
