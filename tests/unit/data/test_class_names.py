from pathlib import Path

import numpy as np
import pytest

from moma_core.data.patch import LONGEST_CLASS, MOST_CLASSES
from moma_core.data.sources.csv_manifest import list_csv_manifest
from moma_core.data.sources.medmnist import MedmnistSource
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


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("benign", "x" * 300), "a name of 300 letters"),
        (("benign", "no\u00a0tumour"), r"the class 'no\\xa0tumour' has letters that"),
        (None, "there are 20001 classes"),
    ],
)
def test_an_archive_is_held_to_what_a_card_can_name(
    tmp_path: Path, names: tuple[str, ...] | None, says: str
) -> None:
    labels = np.array([[0], [20_000 if names is None else 1]])
    parts = {f"{split}_labels": labels for split in ("train", "val", "test")}
    parts |= {
        f"{split}_images": np.zeros((2, 12, 12, 3), np.uint8)
        for split in ("train", "val", "test")
    }
    np.savez(tmp_path / "set.npz", **parts)  # type: ignore[arg-type]

    with pytest.raises(DataError, match=says):
        MedmnistSource(tmp_path / "set.npz", class_names=names)
