"""Folders as hospitals have them: read, or refused and told what to do."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from moma_core.data.patch import SPLITS, TRAIN, UNSEEN, VALIDATION
from moma_core.data.sources.factory import (
    ImageFolderSection,
    open_pictures,
    open_source,
)
from moma_core.data.sources.image_folder import list_image_folder
from moma_core.errors import DataError
from tests.support.machine.pictures import noise, write_picture


def _tree(root: Path, *paths: str) -> Path:
    """Writes pictures, each another; a path that ends in a slash is a folder."""
    for seed, path in enumerate(paths):
        target = root / path
        if path.endswith("/"):
            target.mkdir(parents=True)
        elif target.suffix in {".png", ".tif"}:
            write_picture(target, seed=seed)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
    return root


def _passed(root: Path) -> dict[str, tuple[str, ...]]:
    index = list_image_folder(root).patches().index
    return {each.kind: each.names for each in index.passed_over}


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "val", "test"), (TRAIN, VALIDATION, UNSEEN)),
        (("training", "validation", "testing"), (TRAIN, VALIDATION, UNSEEN)),
        (("Train", "DEV", "Holdout"), (TRAIN, VALIDATION, UNSEEN)),
        (("TRAINING", "Valid", "Unseen"), (TRAIN, VALIDATION, UNSEEN)),
        (("training", "validation"), (TRAIN, VALIDATION)),
        (("train",), (TRAIN,)),
    ],
)
def test_usual_names_of_splits_are_splits_and_no_classes(
    tmp_path: Path, folders: tuple[str, ...], splits: tuple[str, ...]
) -> None:
    _tree(tmp_path, *(f"{folder}/{name}/1.png" for folder in folders for name in "ab"))

    source = list_image_folder(tmp_path).patches()

    assert source.class_names == ("a", "b")
    assert {SPLITS[code] for code in source.index.splits} == set(splits)


@pytest.mark.parametrize(
    ("stray", "kind"),
    [
        ("__MACOSX/train/a/._1.png", "system"),
        ("logs/", "stray_folder"),
        ("notes/readme.txt", "stray_folder"),
        ("slides/1.svs", "stray_folder"),
        (".ipynb_checkpoints/a/1.png", "hidden"),
        ("readme.txt", "suffix"),
    ],
)
def test_a_stray_folder_does_not_change_the_layout(
    tmp_path: Path, stray: str, kind: str
) -> None:
    _tree(tmp_path, "train/a/1.png", "test/a/2.png", stray)

    source = list_image_folder(tmp_path).patches()

    assert source.class_names == ("a",)
    assert [SPLITS[code] for code in source.index.splits] == [UNSEEN, TRAIN]
    assert kind in _passed(tmp_path)


def test_what_lies_in_a_stray_folder_is_counted_as_well(tmp_path: Path) -> None:
    _tree(tmp_path, "train/a/1.png", "slides/x.svs", "slides/deep/y.svs")

    passed = _passed(tmp_path)

    assert passed["stray_folder"] == ("slides", "slides/deep")
    assert passed["suffix"] == ("slides/x.svs", "slides/deep/y.svs")


@pytest.mark.parametrize("suffix", [".jp2", ".svs"])
def test_a_class_folder_of_pictures_that_are_not_read_is_named(
    tmp_path: Path, suffix: str
) -> None:
    _tree(tmp_path, "train/a/1.png", f"train/b/2{suffix}", "train/c/")

    source = list_image_folder(tmp_path).patches()

    assert source.class_names == ("a",)
    assert _passed(tmp_path)["empty_class"] == ("train/b", "train/c")
    assert _passed(tmp_path)["suffix"] == (f"train/b/2{suffix}",)


def test_an_empty_class_beside_others_is_named(tmp_path: Path) -> None:
    _tree(tmp_path, "a/1.png", "b/")

    assert _passed(tmp_path) == {"empty_class": ("b",)}


def test_a_root_without_a_picture_says_what_is_there(tmp_path: Path) -> None:
    _tree(tmp_path, "a/1.svs", "a/2.svs", "b/3.jp2")

    with pytest.raises(DataError) as caught:
        list_image_folder(tmp_path).patches()

    assert "files of a kind that is not read (.svs): 2" in str(caught.value)
    assert "class folders without a picture that can be read: 2" in str(caught.value)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("train/a/1.png", "a/2.png"), "like splits (train) and others are not (a)"),
        (("training/a/1.png", "extra/a/2.png"), "are not (extra): use root/<split>"),
        (("train/a/1.png", "test_set/a/2.png"), "folder test_set reads like a split"),
        (("01_train/a/1.png", "02_test/a/1.png"), "01_train, 02_test reads like"),
        (("test/a/1.png", "holdout/a/2.png"), "holdout, test mean one split"),
        (("train/a/1.png", "Train/a/2.png"), "Train, train mean one split"),
        (("a/train/1.png", "a/test/2.png"), "'a' holds folders named like splits"),
        (("set/train/a/1.png", "set/test/a/2.png"), "no class, point data.root at it"),
        (("1.png",), "has images outside the class folders (1.png)"),
        (("train/1.png", "train/2.png"), "class folders (train/1.png, train/2.png)"),
        (("a/1.png", "A/2.png"), "the classes 'A' and 'a' differ by case"),
        (("train/G3-4/1.png", "test/G3 4/2.png"), "differ by case, blanks, hyphens"),
    ],
)  # fmt: skip
def test_a_layout_that_can_be_read_two_ways_is_refused(
    tmp_path: Path, paths: tuple[str, ...], message: str
) -> None:
    _tree(tmp_path, *paths)

    with pytest.raises(DataError) as caught:
        list_image_folder(tmp_path).patches()

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("set.npz", "write data: {kind: medmnist, path: set.npz}"),
        ("list.csv", "write data: {kind: csv_manifest, path: list.csv}"),
        ("1.png", "data.root is the folder of the classes or splits"),
        ("nothing", "data.root is the folder of the classes or splits"),
    ],
)
def test_a_root_that_is_no_folder_says_what_to_write(
    tmp_path: Path, name: str, message: str
) -> None:
    if name != "nothing":
        (tmp_path / name).touch()

    with pytest.raises(DataError) as caught:
        list_image_folder(tmp_path / name)

    assert message in str(caught.value)


def test_a_folder_with_a_blank_at_its_end_is_the_same_class(tmp_path: Path) -> None:
    _tree(tmp_path, "train/TUM/1.png", "test/TUM /2.png")

    source = list_image_folder(tmp_path).patches()

    assert source.class_names == ("TUM",)
    assert np.array_equal(source.read(0).pixels, noise(1))


def test_a_linked_class_folder_is_read(tmp_path: Path) -> None:
    _tree(tmp_path, ".store/x/1.png", "b/2.png")
    (tmp_path / "a").symlink_to(".store/x")

    source = list_image_folder(tmp_path).patches()

    assert source.class_names == ("a", "b")
    assert np.array_equal(source.read(0).pixels, noise(0))


def test_a_class_folder_that_links_out_of_the_root_is_named(tmp_path: Path) -> None:
    _tree(tmp_path, "elsewhere/1.png", "root/b/2.png")
    (tmp_path / "root/a").symlink_to(tmp_path / "elsewhere")

    assert _passed(tmp_path / "root") == {"link": ("a",)}


def test_a_folder_that_cannot_be_listed_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tree(tmp_path, "train/a/1.png", "train/b/2.png")
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)

    with pytest.raises(DataError, match="/train/b cannot be listed: Permission denied"):
        open_source(tmp_path)


def test_a_file_name_that_is_no_utf8_is_read_like_any_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _tree(tmp_path, "a/1.png", "a/2.png")
    (tmp_path / "a/1.png").rename(tmp_path / "a" / os.fsdecode(b"M\xfcller.png"))
    section = ImageFolderSection(
        kind="image_folder", root=tmp_path, patient_pattern=r"^(\w)"
    )

    source, pictures = open_source(section), open_pictures(section)

    assert pictures is not None
    assert pictures.path_of(1) == r"a/M\xfcller.png"
    assert np.array_equal(source.read(1).pixels, noise(0))
    assert source.read(1).patient == "M"
    (tmp_path / "a" / os.fsdecode(b"M\xfcller.png")).write_bytes(b"")
    with caplog.at_level(logging.DEBUG), pytest.raises(DataError):
        pictures.read(1)
    assert r"M\xfcller.png" in caplog.text


def test_a_patient_whose_name_is_no_utf8_can_be_written(tmp_path: Path) -> None:
    _tree(tmp_path, "a/1.png")
    (tmp_path / "a/1.png").rename(tmp_path / "a" / os.fsdecode(b"M\xfcller.png"))

    source = list_image_folder(tmp_path, patient_pattern=r"^(.*)\.png").patches()

    assert source.patient_of(0) == r"M\xfcller"


def test_a_class_folder_that_is_no_utf8_is_one_sentence(tmp_path: Path) -> None:
    _tree(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a").rename(tmp_path / os.fsdecode(b"Dr\xfcse"))

    with pytest.raises(DataError, match=r"the class 'Dr\\xfcse' has letters"):
        list_image_folder(tmp_path).patches()
