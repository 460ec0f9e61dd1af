"""How far outputs agree with labels: by hand, and of noise."""

import pytest
import torch
from torch import Tensor

from moma_core.data.patch import UNKNOWN_PATIENT
from moma_core.evaluation.agreement import (
    FLOOR,
    Agreement,
    measure_agreement,
    shares,
)
from moma_core.teacher.protocol import TeacherOutput

LABELS = torch.arange(40) % 4
EACH_ANOTHER = torch.full((40,), UNKNOWN_PATIENT)
ORDER = torch.tensor([3, 2, 1, 0])


def _output(said: Tensor, seed: int = 0) -> TeacherOutput:
    """Embeddings around the corner of a class, logits in the other order."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.eye(4)[said]
    embedding = corners + 0.05 * torch.randn(len(said), 4, generator=generator)
    return TeacherOutput(embedding, corners.flip(1))


def test_logits_are_read_by_the_names_of_classes() -> None:
    right = measure_agreement(_output(LABELS), LABELS, EACH_ANOTHER, ORDER)
    by_place = measure_agreement(_output(LABELS), LABELS, EACH_ANOTHER, torch.arange(4))

    assert (right.by, right.patches) == ("logits", 40)
    # recall 1 in four classes of ten: 1 - 1.645 sqrt(4 * (11/12 / 12) / 10) / 4
    lowest = 1 - 1.645 * (4 * 11 / 12 / 12 / 10) ** 0.5 / 4
    assert right.value == pytest.approx((lowest - 0.25) / 0.75)
    assert by_place.value == 0


def test_embeddings_are_measured_by_their_neighbours_where_classes_differ() -> None:
    found = measure_agreement(_output(LABELS), LABELS, EACH_ANOTHER, None)

    assert found.by == "embeddings"
    assert found.value > 0.8


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("order", [None, ORDER])
def test_noise_agrees_no_more_than_the_floor(seed: int, order: Tensor | None) -> None:
    generator = torch.Generator().manual_seed(100 + seed)
    said = torch.randint(0, 4, (40,), generator=generator)
    noise = TeacherOutput(
        torch.randn(40, 8, generator=generator), torch.eye(4)[said].flip(1)
    )

    assert measure_agreement(noise, LABELS, EACH_ANOTHER, order).value <= FLOOR


def test_patches_of_one_patient_do_not_vouch_for_each_other() -> None:
    patients = torch.arange(40) // 2
    labels = patients % 4
    generator = torch.Generator().manual_seed(3)
    slides = torch.randn(20, 8, generator=generator)[patients]  # a slide, no class

    fooled = measure_agreement(
        TeacherOutput(slides, slides), labels, EACH_ANOTHER, None
    )
    found = measure_agreement(TeacherOutput(slides, slides), labels, patients, None)

    assert found.value <= FLOOR
    assert fooled.value >= found.value


@pytest.mark.parametrize("count", [1, 3])
def test_patches_of_one_patient_alone_say_nothing(count: int) -> None:
    labels = torch.arange(count)
    output = _output(labels)

    same = torch.zeros(count, dtype=torch.long)

    assert measure_agreement(output, labels, same, None).value == 0


def test_shares_are_one_together_and_nobody_known_is_below_the_floor() -> None:
    good, bad = Agreement(0.75, "logits", 40), Agreement(0.0, "embeddings", 40)

    assert shares({"a": good, "b": bad}) == pytest.approx(
        {"a": 0.75 / 0.8, "b": 0.05 / 0.8}
    )
    assert shares({"a": good, "b": None}) == {"a": 1.0, "b": 0.0}
    assert shares({"a": None, "b": None}) == {"a": 0.5, "b": 0.5}
