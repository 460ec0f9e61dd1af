"""Some of many are shown, and each list says how many it leaves out."""

from pathlib import Path

import numpy as np
import pytest

from moma_core.data.checks.aliases import look_at_aliases
from moma_core.data.checks.identities import look_at_identities
from moma_core.data.checks.layout import look_at_files
from moma_core.data.checks.samples import joined, some, spread
from moma_core.data.sources.factory import ImageFolderSection
from moma_core.data.sources.image_files import FilePatches, FileTable


def _patches(folder: Path, patients: list[str], slides: list[str]) -> FilePatches:
    """Returns a patch of each patient and slide, in both splits in turn."""
    table = FileTable(folder)
    for number, (patient, slide) in enumerate(zip(patients, slides, strict=True)):
        split = "unseen" if number % 2 else "train"
        name = f"{number // 2}{'_mask' if number % 2 else ''}.png"
        table.add(f"a/{name}", label="a", split=split, patient=patient, slide=slide)
    return table.patches()


def _pairs(first: str, second: str) -> list[str]:
    """Returns names of 23 things, each in two spellings."""
    return [form.format(n) for n in range(10, 33) for form in (first, second)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("P{0}", "p {0}"),
        ("19{0}-03-02", "X{0}"),
        ("P{0}-T", "P{0}-V"),
        ("{0}E+11", "1.{0}e+12"),
    ],
)
def test_lists_of_patients_end_with_how_many_more(
    tmp_path: Path, first: str, second: str
) -> None:
    names = _pairs(first, second)
    patches = _patches(tmp_path, names, names)

    found = [*look_at_identities(patches), *look_at_aliases(patches)]

    assert found
    for finding in found:
        assert len(finding.more) == 21
        assert finding.more[-1] in ("and 3 more", "and 26 more")


def test_lists_of_slides_end_with_how_many_more(tmp_path: Path) -> None:
    patches = _patches(tmp_path, _pairs("P{0}", "Q{0}"), _pairs("s{0}", "s{0}"))

    (found,) = look_at_identities(patches)

    assert found.more[-1] == "and 3 more"


def test_lists_of_masks_end_with_how_many_more(tmp_path: Path) -> None:
    names = _pairs("P{0}", "Q{0}")
    section = ImageFolderSection(kind="image_folder", root=tmp_path)

    (found,) = look_at_files(section, _patches(tmp_path, names, names))

    assert len(found.more) == 21
    assert found.more[-1] == "and 3 more"


def test_what_is_not_shown_is_not_written() -> None:
    asked: list[int] = []

    def line(number: int) -> str:
        asked.append(number)
        return str(number)

    assert some(range(22), line)[-2:] == ("19", "and 2 more")
    assert asked == [*range(20)]
    assert some(["a"]) == ("a",)
    assert joined(["a", "b", "c"], 2) == "a, b and 1 more"


@pytest.mark.parametrize(("total", "expected"), [(3, [0, 1, 2]), (100, [0, 49, 99])])
def test_rows_are_evenly_spread(total: int, expected: list[int]) -> None:
    assert spread(np.arange(total), 3).tolist() == expected
