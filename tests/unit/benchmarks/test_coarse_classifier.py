"""A teacher that says less than it knows: summed probabilities of coarser classes."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from benchmarks.study.preset import Study, read_study
from benchmarks.study.teachers import CoarseClassifier, order_of

_PAPER = Path(__file__).resolve().parents[3] / "benchmarks" / "paper"


def test_probabilities_of_finer_classes_are_summed() -> None:
    fine, embeddings = nn.Linear(5, 4), torch.randn(3, 5)

    coarse = CoarseClassifier(fine, [(0, 2), (3,), (1,)])(embeddings)

    of_fine = fine(embeddings).softmax(1)
    expected = torch.stack(
        (of_fine[:, 0] + of_fine[:, 2], of_fine[:, 3], of_fine[:, 1]), 1
    )
    torch.testing.assert_close(coarse.softmax(1), expected)


def test_a_teacher_of_coarser_classes_has_none_of_the_sites() -> None:
    plan = read_study(_PAPER / "crc_val.yaml").teachers["coarse"]

    assert order_of(plan, plan.class_names) is None


def test_coarser_classes_are_made_of_the_teachers_own() -> None:
    values = read_study(_PAPER / "crc_val.yaml").model_dump(mode="json")
    values["teachers"]["coarse"]["merged"]["lymphocytes"] = ["LYMPH"]

    with pytest.raises(ValidationError, match="LYMPH"):
        Study.model_validate(values)
