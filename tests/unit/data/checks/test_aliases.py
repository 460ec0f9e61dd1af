"""Patients with one name in each split, and names that only look so."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from moma_core.data.checks.aliases import look_at_aliases
from moma_core.data.sources.image_files import FileTable
from moma_core.runtime.finding import Finding


def _look(
    folder: Path, rows: Sequence[tuple[str, str]], centres: Sequence[str] | None = None
) -> list[Finding]:
    """Looks at patches of a patient and a split each."""
    table = FileTable(folder)
    for number, (patient, split) in enumerate(rows):
        centre = None if centres is None else centres[number]
        name = f"{number}.png"
        table.add(name, label="a", split=split, patient=patient, centre=centre)
    return list(look_at_aliases(table.patches()))


def test_one_day_in_three_spellings_is_told_with_its_rows(tmp_path: Path) -> None:
    rows = [("02.03.1950", "train"), ("1950-03-02", "val"), ("3/2/1950", "test")]

    (found,) = _look(tmp_path, rows)

    assert found.state == "warning"
    assert found.text.startswith("3 patient names look like a date: ")
    assert "name each patient by a pseudonym" in found.text
    assert "1950" not in found.text
    assert any(
        "'02.03.1950' in train (0.png) and '1950-03-02' in validation" in line
        for line in found.more
    )


def test_one_day_is_told_as_one(tmp_path: Path) -> None:
    (found,) = _look(tmp_path, [("1950-03-02", "train"), ("P2", "test")])

    assert found.text.startswith("1 patient name looks like a date: ")


@pytest.mark.parametrize(
    "name",
    ["1950-13-02", "31/31/1950", "2019-0042", "12-3-19", "TCGA-02-03-1950", "19500302"],
)
def test_a_number_of_a_case_is_no_date(tmp_path: Path, name: str) -> None:
    assert _look(tmp_path, [(name, "train"), ("P2", "test")]) == []


def test_patients_that_end_as_their_split_are_one_it_seems(tmp_path: Path) -> None:
    rows = [("P01-T", "train"), ("P02-T", "train"), ("P01-V", "val"), ("P01-U", "test")]

    (found,) = _look(tmp_path, rows)

    assert found.state == "warning"
    assert "1 patient is in two splits, it seems" in found.text
    assert "(t, u, v)" in found.text
    assert found.more == (
        "'P01-T' in train (0.png) and 'P01-V' in validation (2.png) and "
        "'P01-U' in unseen (3.png)",
    )


@pytest.mark.parametrize(
    "rows",
    [
        [("P01-T", "train"), ("P02-V", "val")],  # each number is in one split
        [("P01-T", "train"), ("P01-N", "train"), ("P02-T", "val"), ("P02-N", "val")],
        [("P01a", "train"), ("P01b", "train"), ("P01c", "val")],  # letters of cases
        [("P01-T", "train"), ("P02", "train"), ("P01-V", "val")],  # not all end so
        [("train_001", "train"), ("test_001", "test")],  # each split counts anew
        [("left", "train"), ("right", "val")],
        [("001-MUC", "train"), ("002-MUC", "train"), ("001-BER", "test")],
        [("001-A", "train"), ("001-B", "test")],  # centres, or slides
    ],
)
def test_endings_that_are_no_split_are_names(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    assert _look(tmp_path, rows) == []


@pytest.mark.parametrize("ending", ["TR", "train", "Trn", "d", "H"])
def test_any_short_form_of_a_split_is_one(tmp_path: Path, ending: str) -> None:
    rows = [(f"P01-{ending}", "train"), ("P01_te", "test")]

    (found,) = _look(tmp_path, rows)

    assert "under names that end as the split does" in found.text


@pytest.mark.parametrize(
    ("centres", "is_told"), [(("a", "b"), False), (("a", "a"), True), (("a", ""), True)]
)
def test_patients_of_two_centres_are_two(
    tmp_path: Path, centres: tuple[str, str], *, is_told: bool
) -> None:
    rows = [("001-T", "train"), ("001-V", "test")]

    assert bool(_look(tmp_path, rows, centres)) is is_told
