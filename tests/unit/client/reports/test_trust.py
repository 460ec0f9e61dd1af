"""What may be thought of a student's word on one class."""

import numpy as np
import pytest
import torch

from moma_client.reports.student_report.trust import (
    ClassTrust,
    State,
    trust_by_class,
)
from moma_core.evaluation.grouping import Grouping
from moma_core.evaluation.metrics import SplitOutputs

CLASSES = ("good", "poor", "rare", "absent")


def trust(
    said: dict[tuple[str, str], int], patients: int = 20
) -> dict[str, ClassTrust]:
    """Returns the conclusions where (label, prediction) occurs so many times."""
    pairs = [
        (CLASSES.index(label), CLASSES.index(prediction))
        for (label, prediction), count in said.items()
        for _ in range(count)
    ]
    labels, predicted = torch.tensor(pairs).T
    rows = np.arange(len(labels))
    outputs = SplitOutputs(
        torch.nn.functional.one_hot(predicted, len(CLASSES)).double(),
        labels,
        rows,
        Grouping(rows % patients, "patients"),
        CLASSES,
        False,
    )
    found = trust_by_class(outputs, outputs.measure(), 0.8)
    return {each.name: each for each in found}


def test_each_class_gets_the_conclusion_that_its_intervals_allow() -> None:
    found = trust(
        {
            ("good", "good"): 190,
            ("good", "poor"): 10,
            ("poor", "poor"): 45,
            ("poor", "good"): 10,
            ("poor", "rare"): 50,
            ("rare", "rare"): 12,
        }
    )

    states: dict[str, State] = {name: each.state for name, each in found.items()}
    assert states == {
        "good": "relied",
        "poor": "not",
        "rare": "not",  # what is called rare is mostly poor
        "absent": "untested",
    }
    assert found["poor"].confused_with == ("rare", 50)


def test_a_sentence_has_the_figures_their_intervals_and_n() -> None:
    found = trust({("good", "good"): 190, ("good", "poor"): 10, ("poor", "poor"): 50})

    sentence = found["good"].sentence.replace("\N{NO-BREAK SPACE}", " ")

    assert sentence.startswith("good may be relied on: ")
    assert "Of 200 patches of good of 20 patients it finds 95 % (95 % interval" in (
        sentence
    )
    assert "When it says good, it is right in 100 %" in sentence
    assert "Of the 10 that it misses it calls 10 poor." in sentence


def test_few_patches_decide_nothing_even_where_all_are_right() -> None:
    found = trust({("good", "good"): 100, ("rare", "rare"): 12})

    assert found["rare"].state == "undecided"
    assert "only 12 patches of 12 patients, at least " in found["rare"].sentence


def test_few_patients_decide_nothing_however_many_their_patches() -> None:
    found = trust({("good", "good"): 300, ("poor", "poor"): 300}, patients=4)

    assert found["good"].state == "undecided"
    assert "only 300 patches of 4 patients, at least " in found["good"].sentence


def test_one_patient_is_no_plural() -> None:
    found = trust({("good", "good"): 30, ("poor", "poor"): 1}, patients=1)

    assert "only 30 patches of 1 patient, at least " in found["good"].sentence
    assert "Of 1 patch of poor of 1 patient it finds" in found["poor"].sentence


def test_an_interval_across_the_threshold_decides_nothing() -> None:
    found = trust({("good", "good"): 26, ("good", "poor"): 6, ("poor", "poor"): 90})

    assert found["good"].state == "undecided"
    assert "reaches across" in found["good"].sentence


def test_a_class_that_is_never_said_is_not_to_be_relied_on() -> None:
    found = trust({("good", "good"): 90, ("poor", "good"): 40})

    assert found["poor"].state == "not"
    assert found["poor"].precision is None
    assert found["poor"].f1 == 0
    assert "It calls no patch poor." in found["poor"].sentence


def test_recall_precision_and_f1_fit_each_other() -> None:
    found = trust({("good", "good"): 60, ("good", "poor"): 20, ("poor", "good"): 40})

    good = found["good"]
    assert good.recall is not None
    assert good.precision is not None
    assert (good.recall.value, good.precision.value) == pytest.approx((0.75, 0.6))
    assert good.f1 == pytest.approx(2 * 0.75 * 0.6 / 1.35)


def test_a_class_that_is_said_of_everything_is_not_to_be_relied_on() -> None:
    # twelve patches of each of seven patients: precision is a third in every draw
    found = trust({("good", "rare"): 28, ("poor", "rare"): 28, ("rare", "rare"): 28}, 7)

    assert found["rare"].state == "not"
    assert "what it says rightly stays below" in found["rare"].sentence


def test_where_every_patient_is_alike_the_interval_is_of_so_many_patients() -> None:
    found = trust({("good", "good"): 40, ("good", "poor"): 20, ("poor", "poor"): 90})

    assert found["good"].state == "undecided"
    assert "67 % (95 % interval 45 % to 83 %)" in found["good"].sentence.replace(
        "\N{NO-BREAK SPACE}", " "
    )
