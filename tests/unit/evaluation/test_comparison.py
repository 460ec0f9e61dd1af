"""Two students on the same patches."""

import numpy as np
import pytest
import torch
from torch import Tensor

from moma_core.evaluation.comparison import paired_difference
from moma_core.evaluation.grouping import Grouping
from moma_core.evaluation.metrics import SplitOutputs

PATIENTS, EACH = 12, 10
LABELS = torch.arange(PATIENTS * EACH) % 2


def student(is_right: Tensor, first_row: int = 0) -> SplitOutputs:
    said = torch.where(is_right, LABELS, 1 - LABELS)
    rows = np.arange(len(LABELS)) + first_row
    grouping = Grouping(np.arange(len(LABELS)) // EACH, "patients")
    logits = torch.nn.functional.one_hot(said, 2).double()
    return SplitOutputs(logits, LABELS, rows, grouping, ("a", "b"), False)


def right(share: float) -> Tensor:
    """A student that is right on the same share of every patient's patches."""
    return torch.arange(len(LABELS)) % EACH < share * EACH


def test_a_student_is_no_better_than_itself() -> None:
    found = paired_difference(student(right(0.8)), student(right(0.8)), "accuracy")

    assert found is not None
    assert found.value == 0
    assert not found.is_decided


def test_the_difference_is_that_of_the_figures() -> None:
    one, other = student(right(0.9)), student(torch.arange(120) % 7 < 4)

    found = paired_difference(one, other, "macro_f1")

    assert found is not None
    expected = [each.measure().values()["macro_f1"] for each in (one, other)]
    assert found.value == pytest.approx(expected[0] - expected[1])
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]
    assert found.is_decided


def test_what_is_hard_for_both_widens_no_interval() -> None:
    """One patient is wrong for both: alone, either's interval reaches far down."""
    hard = torch.arange(len(LABELS)) < EACH
    one, other = student(right(1.0) & ~hard), student(right(0.9) & ~hard)

    found = paired_difference(one, other, "accuracy")

    assert found is not None
    assert found.interval is not None
    own = one.measure().figures["accuracy"].interval
    assert own is not None
    assert found.interval[1] - found.interval[0] < (own[1] - own[0]) / 3
    assert found.is_decided


def test_students_on_other_patches_are_not_compared() -> None:
    other = student(right(0.5), first_row=1)

    assert paired_difference(student(right(0.5)), other, "accuracy") is None
