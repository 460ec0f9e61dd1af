import math

import pytest
import torch

from moma_core.evaluation.metrics import evaluate, figures
from tests.support.site.tiny import ConvEncoder

NAMES = ("a", "b", "c")


def _logits(predictions: list[int], classes: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(predictions), classes).float() * 9


def test_figures_by_hand() -> None:
    labels = torch.tensor([0, 0, 1, 2])

    found = figures(_logits([0, 1, 1, 1]), labels, NAMES)

    assert found["accuracy"] == pytest.approx(0.5)
    assert found["recall_a"] == pytest.approx(0.5)
    assert found["recall_b"] == pytest.approx(1.0)
    assert found["recall_c"] == pytest.approx(0.0)
    # F1 of a: 2/3; of b, predicted three times and right once: 1/2; of c: 0
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 3)


def test_quadratic_kappa_by_hand() -> None:
    labels = torch.tensor([0, 1, 2, 2])

    found = figures(_logits([0, 1, 2, 1]), labels, NAMES)

    # observed: one error of distance 1; expected from the margins (1,1,2) x (1,2,1)
    expected = sum(
        (i - j) ** 2 * row * column / 4
        for i, row in enumerate((1, 1, 2))
        for j, column in enumerate((1, 2, 1))
    )
    assert found["kappa"] == pytest.approx(1 - 1 / expected)


def test_a_perfect_confident_student_has_auroc_one_and_a_small_calibration_error() -> (
    None
):
    labels = torch.tensor([0, 1, 2, 1])

    found = figures(_logits([0, 1, 2, 1]) * 3, labels, NAMES)

    assert found["auroc"] == pytest.approx(1)
    assert found["ece"] == pytest.approx(0, abs=1e-6)


def test_classes_that_do_not_occur_have_no_recall_and_spoil_nothing() -> None:
    found = figures(_logits([0, 1, 1]), torch.tensor([0, 1, 1]), NAMES)

    assert "recall_c" not in found
    assert found["macro_f1"] == pytest.approx(1)
    assert found["auroc"] == pytest.approx(1)


def test_one_class_alone_has_no_auroc() -> None:
    assert math.isnan(figures(_logits([0]), torch.tensor([0]), NAMES)["auroc"])


def test_evaluation_leaves_the_student_in_its_mode() -> None:
    student = ConvEncoder()
    views = torch.zeros(4, 3, 12, 12, dtype=torch.uint8)
    batches = [(views, torch.tensor([0, 1, 2, 0]))]

    found = evaluate(student, lambda x: x.float(), batches, NAMES)

    assert student.training
    assert 0 <= found["accuracy"] <= 1


def test_without_patches_there_are_no_figures() -> None:
    assert evaluate(ConvEncoder(), lambda x: x.float(), [], NAMES) == {}
