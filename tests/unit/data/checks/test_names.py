import unicodedata

import pytest

from moma_core.data.checks.names import (
    equal_names,
    misspelt_pairs,
    near_pairs,
    nearest,
    normalised,
)


@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        ("Colon", "colon"),
        ("TUM ", "tum"),
        ("muscle layer", "Muscle-Layer"),
        ("muscle_layer", "muscle  layer"),
        ("Gallengänge", unicodedata.normalize("NFD", "Gallengänge")),
        ("G3\N{EN DASH}4", "g3-4"),
        ("良性", "良性"),
    ],
)
def test_what_people_write_now_so_now_so_is_one_name(own: str, theirs: str) -> None:
    assert normalised(own) == normalised(theirs)
    assert equal_names([own], [theirs]) == {own: theirs}


@pytest.mark.parametrize(
    ("own", "theirs"),
    [("HER2-", "HER2+"), ("HER2-", "HER2"), ("G3", "G4"), ("良性", "恶性")],
)
def test_signs_and_numbers_part_names(own: str, theirs: str) -> None:
    assert equal_names([own], [theirs]) == {}
    assert nearest(own, [theirs]) is None


def test_names_that_would_fit_two_fit_none_but_the_one_written_alike() -> None:
    assert equal_names(["a-b", "a_b"], ["A B"]) == {}
    assert equal_names(["a-b", "A B"], ["A B"]) == {"A B": "A B"}


@pytest.mark.parametrize(
    ("own", "theirs", "expected"),
    [
        ("tumour", ["STR", "TUM"], "TUM"),
        ("MUS", ["muscle", "mucus"], "muscle"),
        ("colom", ["colon"], "colon"),
        ("lymphocytes", ["LYM", "ADI"], "LYM"),
        ("prostate", ["colon"], None),
        ("no tumour", ["tumour"], None),
        ("grade 3", ["grade 4"], None),
    ],
)
def test_the_nearest_name_is_found_where_one_is_near(
    own: str, theirs: list[str], expected: str | None
) -> None:
    assert nearest(own, theirs) == expected


def test_each_name_is_near_to_one_at_most() -> None:
    pairs = near_pairs(["tumour", "tumors"], ["tumor", "stroma"])

    assert pairs == {"tumors": "tumor"} or pairs == {"tumour": "tumor"}


def test_as_many_classes_as_a_card_may_name_are_not_compared_pair_by_pair() -> None:
    theirs = [f"class {number:b}" for number in range(10_000)]

    assert near_pairs(["tumour", "stroma", "mucus"], theirs) == {}
    assert equal_names(["CLASS 1"], theirs) == {"CLASS 1": "class 1"}


def test_one_name_that_is_written_twice_is_seen_and_a_grade_is_none() -> None:
    assert misspelt_pairs(["tumor", "tumour", "stroma"]) == [("tumor", "tumour")]
    assert misspelt_pairs(["grade 3", "grade 4", "benign", "malignant"]) == []
    assert misspelt_pairs(["HER2+", "HER2-", "G3", "G3+4"]) == []
