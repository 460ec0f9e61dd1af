"""Names that are no class, and names that only look so."""

from collections.abc import Mapping

import numpy as np
import pytest

from moma_core.data.checks.rules import look_at_set
from moma_core.data.patch import Patch, PatchIndex


class _Named:
    """Training patches of a patient each, with so many of each class."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        labels = np.repeat(np.arange(len(sizes)), list(sizes.values()))
        self.class_names = tuple(sizes)
        self.index = PatchIndex(
            labels=labels.astype(np.int16),
            splits=np.zeros(len(labels), dtype=np.uint8),
            patients=np.arange(len(labels), dtype=np.int32),
        )

    def read(self, row: int) -> Patch:
        raise AssertionError("no rule reads a pixel")


def _warned(sizes: Mapping[str, int]) -> str:
    found = look_at_set(_Named(sizes), figures_of={}, max_unreadable=None)
    return "; ".join(each.text for each in found if each.state == "warning")


@pytest.mark.parametrize(
    "name", ["-1", "999", "k.A.", "K. A.", "Unknown", "n.a.", "no label", "?", "Mask"]
)
def test_a_name_that_says_nobody_knows_is_no_class(name: str) -> None:
    assert f"class {name!r}: looks like no class" in _warned({"a": 20, name: 10})


@pytest.mark.parametrize("name", ["other", "Others", "rest", "none", "1", "9", "no"])
def test_a_name_that_may_be_a_class_is_one(name: str) -> None:
    warned = _warned({"tumour": 20, name: 10})

    assert "no class" not in warned
    assert "what they are not" not in warned


def test_twenty_pairs_of_names_are_shown_and_the_others_counted() -> None:
    words = [f"{letter}tumo" for letter in "abcdefghijklmnopqrstuvw"]

    warned = _warned({word + end: 1 for word in words for end in ("r", "ur")})

    assert "'ttumor' and 'ttumour' look like one that is written twice" in warned
    assert "classes 'utumor' and" not in warned
    assert "and 3 more pairs of classes look like one" in warned


def test_a_number_that_follows_another_is_a_class() -> None:
    assert "no class" not in _warned({"98": 20, "99": 20})


@pytest.mark.parametrize("name", ["other", "unknown", "-1"])
def test_most_patches_of_no_class_are_a_warning(name: str) -> None:
    warned = _warned({"tumour": 10, "stroma": 10, name: 21})

    assert f"21 of 41 training patches are of class {name!r}, which says" in warned
    assert "leave the label empty where nobody knows it" in warned


@pytest.mark.parametrize(("name", "is_told"), [("Other", False), ("unknown", True)])
def test_one_class_against_all_others_is_ordinary(name: str, *, is_told: bool) -> None:
    warned = _warned({"tumour": 20, name: 40})

    assert ("what they are not" in warned) is is_told
