from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from moma_core.data.consistency import check_consistency
from moma_core.data.patch import (
    SPLITS,
    TRAIN,
    UNKNOWN_PATIENT,
    UNSEEN,
    VALIDATION,
    Patch,
    PatchIndex,
)
from moma_core.data.sources.csv_manifest import list_csv_manifest
from moma_core.data.sources.image_files import FilePatches
from moma_core.data.sources.image_folder import list_image_folder
from moma_core.errors import DataError
from tests.support.machine.pictures import write_picture


@dataclass(frozen=True, slots=True)
class _Rows:
    """A source that names nothing."""

    index: PatchIndex
    class_names: tuple[str, ...] = ("a", "b")

    def read(self, row: int) -> Patch:
        raise NotImplementedError


def _rows(splits: list[str], patients: list[int]) -> _Rows:
    return _Rows(
        PatchIndex(
            labels=np.zeros(len(splits), np.int16),
            splits=np.array([SPLITS.index(name) for name in splits], np.uint8),
            patients=np.array(patients, np.int32),
        )
    )


def _manifest(folder: Path, *lines: str) -> FilePatches:
    (folder / "m.csv").write_text("\n".join(lines))
    return list_csv_manifest(folder / "m.csv").patches()


def _fault(source: FilePatches) -> str:
    with pytest.raises(DataError) as caught:
        check_consistency(source, source)
    return str(caught.value)


def test_patients_in_two_splits_are_refused_by_their_rows() -> None:
    source = _rows([TRAIN, TRAIN, UNSEEN, VALIDATION, UNSEEN], [1, 2, 2, 3, 3])

    with pytest.raises(DataError) as caught:
        check_consistency(source)

    assert str(caught.value) == (
        "2 patients are in more than one split, keep each in one: "
        "train (row 1) and unseen (row 2); validation (row 3) and unseen (row 4)"
    )


def test_a_patient_in_two_splits_is_named_with_its_lines(tmp_path: Path) -> None:
    source = _manifest(
        tmp_path,
        "path,patient_id,split",
        "a.png,p1,train",
        "b.png,p2,train",
        "c.png,p1,test",
    )

    assert _fault(source) == (
        "1 patient is in more than one split, keep each in one: 'p1' in train "
        "(m.csv line 2: a.png) and unseen (m.csv line 4: c.png)"
    )


def test_only_the_first_of_many_patients_are_named(tmp_path: Path) -> None:
    lines = [f"{number}.png,p{number // 2},{number % 2}" for number in range(20)]
    lines = [line.replace(",0", ",train").replace(",1", ",test") for line in lines]

    fault = _fault(_manifest(tmp_path, "path,patient_id,split", *lines))

    assert fault.startswith("10 patients are in more than one split")
    assert fault.endswith("; and 7 more")


def test_a_slide_in_two_splits_is_refused_where_no_patient_is_named(
    tmp_path: Path,
) -> None:
    rows = ["path,patient_id,slide_id,split"]
    rows += ["a.png,,s1,train", "b.png,,s1,unseen", "c.png,,s2,train", "d.png,,,unseen"]
    rows += ["e.png,p1,1,train", "f.png,p2,1,unseen"]  # slides numbered by patient

    fault = _fault(_manifest(tmp_path, *rows))

    assert fault.startswith("1 slide of an unknown patient is in more than one split")
    assert "'s1' in train (m.csv line 2: a.png) and unseen" in fault


def test_slides_of_known_patients_may_bear_equal_names(tmp_path: Path) -> None:
    rows = ["path,patient_id,slide_id,split", "e.png,p1,1,train", "f.png,p2,1,unseen"]

    source = _manifest(tmp_path, *rows)
    check_consistency(source, source)

    assert source.index.slides is not None
    assert len(set(source.index.slides)) == 1


@pytest.mark.parametrize("patients", [[UNKNOWN_PATIENT, UNKNOWN_PATIENT, 5], [1, 1, 2]])
def test_unknown_patients_and_those_in_one_split_pass_in_silence(
    caplog: pytest.LogCaptureFixture, patients: list[int]
) -> None:
    check_consistency(_rows([TRAIN, TRAIN, UNSEEN], patients))

    assert not caplog.records


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("again", ["x.png", "./x.png", ".//x.png"])
def test_one_path_with_two_labels_is_refused_with_its_lines(
    tmp_path: Path, again: str, there: bool
) -> None:
    if there:
        write_picture(tmp_path / "x.png")

    source = _manifest(tmp_path, "path,label", "x.png,TUM", "y.png,STR", f"{again},STR")

    assert _fault(source) == (
        "1 picture is under two labels, keep the right one: m.csv line 2: x.png says "
        f"'TUM', m.csv line 4: {again} says 'STR'"
    )


def test_one_path_in_two_splits_is_refused_without_any_patient(tmp_path: Path) -> None:
    source = _manifest(tmp_path, "path,split", "x.png,train", "x.png,test")

    assert _fault(source) == (
        "1 picture is in more than one split, keep one: train (m.csv line 2: x.png) "
        "and unseen (m.csv line 3: x.png)"
    )


def test_a_repeated_row_keeps_one_split(tmp_path: Path) -> None:
    lines = [f"{number}.png,a" for number in range(20)]
    lines += [f"./{number}.png,a" for number in range(20)]

    source = _manifest(tmp_path, "path,label", *lines)
    check_consistency(source, source)

    splits = source.index.splits
    assert splits[:20].tolist() == splits[20:].tolist()
    assert len(set(splits.tolist())) == 3


@pytest.mark.parametrize("kind", ["soft", "hard", "folder"])
def test_one_file_under_two_names_is_seen_through_links(
    tmp_path: Path, kind: str
) -> None:
    first = write_picture(tmp_path / "train/a/1.png")
    write_picture(tmp_path / "train/b/2.png", seed=2)
    second = tmp_path / "test/a/other.png"
    second.parent.mkdir(parents=True)
    match kind:
        case "soft":
            second.symlink_to(first)
        case "hard":
            second.hardlink_to(first)
        case _:
            (tmp_path / "test/b").symlink_to(tmp_path / "train/a")

    source = list_image_folder(tmp_path).patches()

    assert "1 picture is" in _fault(source)
    assert "train/a/1.png" in _fault(source)


def test_one_file_in_two_class_folders_has_two_labels(tmp_path: Path) -> None:
    first = write_picture(tmp_path / "a/1.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/2.png").symlink_to(first)

    source = list_image_folder(tmp_path).patches()

    assert _fault(source) == (
        "1 picture is under two labels, keep the right one: a/1.png says 'a', b/2.png "
        "says 'b'"
    )


def test_equal_inodes_alone_do_not_make_two_files_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(tmp_path / "a/1.png", seed=1)
    write_picture(tmp_path / "b/2.png", seed=2)
    monkeypatch.setattr(
        "moma_core.data.sources.file_identity._listed",
        lambda folder: {path.name: (1, 7) for path in folder.iterdir()},
    )

    source = list_image_folder(tmp_path).patches()

    assert source.index.files is not None
    assert len(set(source.index.files.tolist())) == 2
