"""What tells classes or splits apart, where few pictures or many classes are seen."""

import itertools

import numpy as np
import pytest

from moma_core.data.checks.giveaways import Look, look_at_giveaways
from moma_core.data.checks.names import misspelt_pairs, normalised
from moma_core.data.checks.overlays import Overlays, look_at_overlays

_NAMES = ("gland", "stroma", "mucus")
_TRAIN, _UNSEEN = 0, 2


def _looks(count: int, label: int, suffix: str, split: int = _TRAIN) -> list[Look]:
    return [Look(label, split, 64, f"a{suffix}", "RGB", None, is_grey=False)] * count


def _said(looks: list[Look], names: tuple[str, ...] = _NAMES) -> list[str]:
    return [finding.text for finding in look_at_giveaways(looks, names)]


def test_a_class_that_was_saved_in_another_way_is_told_of_what_was_opened() -> None:
    (text,) = _said([*_looks(3, 0, ".png"), *_looks(3, 1, ".jpg")])

    assert "alone has files of kind .png, of the pictures that were opened" in text
    assert "a student may learn that in the place of tissue; save all classes" in text


@pytest.mark.parametrize(("png", "jpg"), [(1, 50), (2, 50), (50, 1), (2, 2)])
def test_one_picture_or_two_tell_no_class(png: int, jpg: int) -> None:
    assert _said([*_looks(png, 0, ".png"), *_looks(jpg, 1, ".jpg")]) == []


def test_a_class_of_one_picture_may_speak_against_an_odd_one() -> None:
    looks = [*_looks(9, 0, ".png"), *_looks(9, 1, ".jpg"), *_looks(1, 2, ".png")]

    (text,) = _said(looks)

    assert text.startswith("class 'stroma' alone")


def test_nobody_is_told_to_save_the_split_of_another_hospital_again() -> None:
    looks = [*_looks(9, 0, ".png"), *_looks(9, 0, ".jpg", _UNSEEN)]

    (text,) = _said(looks)

    assert "figures differ by may come from how files were saved" in text
    assert "save all" not in text


def test_one_grey_class_of_thousands_is_told() -> None:
    names = tuple(map(str, range(3000)))
    looks = [_looks(1, label, ".png")[0] for label in range(3000)]
    looks += [look._replace(is_grey=True) for look in _looks(4, 7, ".png")]

    (text,) = _said(looks, names)

    assert "4 of 5 pictures of class '7' are grey" in text


@pytest.mark.parametrize(("classes", "is_told"), [(100, True), (101, False)])
def test_what_is_drawn_on_a_class_is_not_looked_for_in_very_many(
    classes: int, *, is_told: bool
) -> None:
    overlays = Overlays(classes)
    random = np.random.default_rng(0)
    for number in range(16):
        pixels = random.integers(0, 200, (32, 32, 3)).astype(np.uint8)
        pixels[:8] = 0 if number % 2 else pixels[:8]
        overlays.add(number % 2, _TRAIN, pixels)

    found = list(look_at_overlays(overlays, ("a", "b")))

    assert bool(found) is is_told
    assert len(overlays.of_class) == (2 if is_told else 0)


def test_names_are_paired_as_each_with_each_would_be() -> None:
    words = ["tumor", "tumour", "t u-mor", "stroma", "stromaa", "strom", "xstroma"]
    words += ["grade 3", "grade 33", "graded 3", "ab", "abc", "abcde", "abcdef"]

    def is_pair(first: str, second: str) -> bool:
        one, other = normalised(first), normalised(second)
        if one.replace("_", "") == other.replace("_", ""):
            return True
        short, long = sorted((one, other), key=len)
        deleted = [
            long[:at] + long[at + 1 :] for at, x in enumerate(long) if x.isalpha()
        ]
        return len(short) >= 5 and short in deleted

    expected = [pair for pair in itertools.combinations(words, 2) if is_pair(*pair)]
    assert expected
    assert misspelt_pairs(words) == expected
