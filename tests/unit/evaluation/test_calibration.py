"""Temperature and reliability of a student's probabilities."""

import numpy as np
import pytest
import torch

from moma_core.evaluation.calibration import (
    fit_temperature,
    probabilities,
    reliability,
)
from moma_core.evaluation.grouping import Grouping
from moma_core.evaluation.metrics import SplitOutputs

CLASSES = ("a", "b", "c")


def outputs(logits: torch.Tensor, labels: torch.Tensor) -> SplitOutputs:
    rows = np.arange(len(labels))
    return SplitOutputs(
        logits.double(), labels, rows, Grouping(rows, "patches"), CLASSES, False
    )


def honest(count: int = 4000) -> SplitOutputs:
    """A student whose labels are drawn by its own probabilities."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, 3, generator=random, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=random).flatten()
    return outputs(logits, labels)


@pytest.mark.parametrize("times", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_made_a_student_too_sure(times: float) -> None:
    found = honest()
    sure = outputs(found.logits * times, found.labels)

    assert fit_temperature(sure).value == pytest.approx(times, rel=0.06)


def test_the_temperature_mends_the_error_and_changes_no_prediction() -> None:
    found = honest()
    sure = outputs(found.logits * 3, found.labels)

    mended = sure.softened(fit_temperature(sure).value or 0.0)

    before, after = sure.measure().values(), mended.measure().values()
    assert after["ece"] < before["ece"] / 3
    assert after["accuracy"] == before["accuracy"]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (outputs(torch.eye(3), torch.arange(3)), "3 patches"),
        (outputs(torch.eye(3).repeat(9, 1), torch.arange(3).repeat(9)), "is right"),
        (outputs(torch.full((30, 3), torch.nan), torch.zeros(30).long()), "not finite"),
    ],
)
def test_where_nothing_can_be_fitted_there_is_no_temperature(
    found: SplitOutputs, reason: str
) -> None:
    temperature = fit_temperature(found)

    assert temperature.value is None
    assert reason in temperature.reason


def test_a_temperature_that_worsens_the_error_on_its_own_patches_is_1() -> None:
    # mostly wrong and sure of little: sharpening the rest lowers the cross-entropy
    logits = torch.tensor([[0.0, 0.1, -2.0]] * 30 + [[0.1, 0.0, -2.0]] * 30)
    labels = torch.tensor([0] * 20 + [1] * 10 + [1] * 19 + [0] * 11)
    found = outputs(logits, labels)

    temperature = fit_temperature(found).value

    assert temperature == 1
    sharper = found.softened(0.5).measure().values()
    assert sharper["ece"] > found.measure().values()["ece"]


def test_a_temperature_stays_within_reason() -> None:
    wrong = torch.tensor([[9.0, 0.0, 0.0]] * 40)
    labels = torch.tensor([1, 2] * 20)

    assert fit_temperature(outputs(wrong, labels)).value == pytest.approx(10)


def test_the_gaps_of_the_bins_make_the_figure_ece() -> None:
    found = honest(500)
    bins = reliability(found)

    gap = sum(each.patches * abs(each.confidence - each.accuracy) for each in bins)

    assert gap / 500 == pytest.approx(found.measure().values()["ece"])
    assert sum(each.patches for each in bins) == 500


def test_of_nothing_there_are_no_bins() -> None:
    assert reliability(outputs(torch.zeros(0, 3), torch.zeros(0).long())) == ()


def test_probabilities_are_those_of_the_scaled_logits() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]])

    assert torch.equal(probabilities(logits, None), logits.double().softmax(1))
    assert torch.equal(probabilities(logits, 2.0), (logits.double() / 2).softmax(1))
