from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moma_core.config import Section, validated
from moma_core.data.patch import SPLITS, TRAIN, PatchSource
from moma_core.data.sources.factory import DataSection, open_source
from moma_core.errors import ConfigError, DataError
from tests.support.machine.pictures import write_picture


class _File(Section):
    data: DataSection


def _open(folder: Path, **values: Any) -> PatchSource:
    return open_source(validated(_File, {"data": values}, folder / "site.yaml").data)


def _folder_of(root: Path, per_class: int = 10) -> Path:
    for number in range(per_class):
        for name in ("a", "b"):
            write_picture(root / name / f"p{number}.png", seed=number)
    return root


def test_an_image_folder_opens_beside_its_config_file(tmp_path: Path) -> None:
    _folder_of(tmp_path / "patches")

    source = _open(
        tmp_path, kind="image_folder", root="patches", patient_pattern=r"(p\d)"
    )

    assert source.class_names == ("a", "b")
    assert [len(source.index.rows(split)) for split in SPLITS] == [14, 2, 4]


def test_a_manifest_opens_beside_its_config_file(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,label,split\n1.png,b,train\n")
    write_picture(tmp_path / "1.png")

    source = _open(tmp_path, kind="csv_manifest", path="m.csv", class_names=["a", "b"])

    assert source.index.labels.tolist() == [1]


def test_a_manifest_of_pictures_that_are_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,label,split\nimg/1.png,b,train\n")

    with pytest.raises(DataError, match=r"none of the 1 pictures .* line 2: img/1.png"):
        _open(tmp_path, kind="csv_manifest", path="m.csv")


def test_paths_of_a_manifest_may_start_at_another_folder(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "store/1.png")
    (tmp_path / "m.csv").write_text(f"path,label\n1.png,b\n{picture},b\n")

    source = _open(tmp_path, kind="csv_manifest", path="m.csv", root="store")

    assert source.index.files is not None
    assert source.index.files.tolist() == [0, 0]
    assert np.array_equal(source.read(0).pixels, source.read(1).pixels)


def test_a_medmnist_archive_opens_with_a_known_sets_names(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "set.npz",
        train_images=np.zeros((2, 28, 28, 3), np.uint8),
        train_labels=np.array([[0], [8]]),
    )

    source = _open(tmp_path, kind="medmnist", path="set.npz", name="pathmnist")

    assert source.class_names[8] == "TUM"


def test_the_embedded_set_opens(tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="the extra `demo` is absent")

    source = _open(tmp_path, kind="embedded", part="site-b")

    assert len(source.class_names) == 4


def test_what_was_passed_over_is_counted(tmp_path: Path) -> None:
    _folder_of(tmp_path / "patches")
    for name in ("a/secret.svs", "a/.DS_Store"):
        (tmp_path / "patches" / name).touch()

    source = _open(tmp_path, kind="image_folder", root="patches", keep_labelled=2)

    assert [each.kind for each in source.index.passed_over] == ["hidden", "suffix"]
    assert "files of a kind that is not read (.svs): 1" in map(
        str, source.index.passed_over
    )


def test_a_preset_opens(tmp_path: Path) -> None:
    write_picture(tmp_path / "ubc/slide001_core001/x_class_3.png")

    source = _open(tmp_path, kind="preset", name="ubc", root="ubc")

    assert source.class_names[source.index.labels[0]] == "grade 3"


def test_few_labels_are_kept_and_patches_say_so(tmp_path: Path) -> None:
    _folder_of(tmp_path / "train")

    source = _open(tmp_path, kind="image_folder", root=".", keep_labelled=6)

    assert source.class_names == ("a", "b")
    assert len(source.index.rows(TRAIN, labelled=True)) == 6
    unlabelled = source.index.rows(TRAIN, labelled=False)
    assert len(unlabelled) == 14
    assert source.read(int(unlabelled[0])).label is None
    kept = source.index.rows(TRAIN, labelled=True)
    assert source.read(int(kept[0])).label == source.index.labels[kept[0]]


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    lines = ["path,patient_id,split", "1.png,p,train", "2.png,p,test"]
    (tmp_path / "m.csv").write_text("\n".join(lines))

    with pytest.raises(DataError, match="1 patient is in more than one split"):
        _open(tmp_path, kind="csv_manifest", path="m.csv")


def test_broken_patches_are_tolerated_up_to_the_limit(tmp_path: Path) -> None:
    root = _folder_of(tmp_path / "train")
    (root / "a/p0.png").write_bytes(b"")

    tolerant = _open(tmp_path, kind="image_folder", root=".", max_unreadable=1)
    strict = _open(tmp_path, kind="image_folder", root=".", max_unreadable=0)

    assert tolerant.read(0).label == 0
    with pytest.raises(DataError, match="unreadable patches: 1, tolerated: 0"):
        strict.read(0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "dicom"}, "data.kind is 'dicom': 'image_folder', "),
        ({"kind": "embedded", "part": "site-c"}, "'teacher', 'site-a' or 'site-b'"),
        (
            {"kind": "csv_manifest", "path": "m.csv", "sep": ";"},
            "unknown key data.sep; known here",
        ),
        (
            {"kind": "csv_manifest", "path": "m.csv", "class_names": ["a", "a"]},
            "a class name appears twice",
        ),
        (
            {"kind": "image_folder", "root": ".", "patient_pattern": "p"},
            "no group for the patient",
        ),
        (
            {"kind": "image_folder", "root": ".", "patient_pattern": "("},
            "no regular expression",
        ),
        (
            {
                "kind": "medmnist",
                "path": "x",
                "name": "pathmnist",
                "class_names": ["a", "b"],
            },
            "give name or class_names, not both",
        ),
    ],
)
def test_a_section_that_breaks_a_rule_is_refused(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        _open(tmp_path, **values)

    assert message in str(caught.value)
