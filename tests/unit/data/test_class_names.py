from pathlib import Path

import pytest

from moma_core.data.patch import LONGEST_CLASS, MOST_CLASSES
from moma_core.data.sources.csv_manifest import list_csv_manifest
from moma_core.errors import DataError


def _manifest(folder: Path, labels: list[str]) -> Path:
    path = folder / "m.csv"
    rows = [f"{number}.png,{label}" for number, label in enumerate(labels)]
    path.write_text("\n".join(["path,label", *rows]))
    return path


def test_a_class_whose_name_is_a_page_of_text_is_refused(tmp_path: Path) -> None:
    path = _manifest(tmp_path, ["benign", "x" * 100_000])

    with pytest.raises(DataError, match="a name of 100000 letters") as error:
        list_csv_manifest(path).patches()

    assert len(str(error.value)) < 300


def test_so_many_classes_that_each_is_a_patch_are_refused(tmp_path: Path) -> None:
    path = _manifest(tmp_path, [f"p{number}" for number in range(MOST_CLASSES + 1)])

    with pytest.raises(DataError, match="there are 10001 classes"):
        list_csv_manifest(path).patches()


def test_the_longest_class_is_taken(tmp_path: Path) -> None:
    path = _manifest(tmp_path, ["benign", "x" * LONGEST_CLASS])

    assert len(list_csv_manifest(path).patches().class_names) == 2
