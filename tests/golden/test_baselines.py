"""Losses of the compared methods against numbers of the published comparison."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moma_core.distillation.methods.crd import ContrastMemory
from moma_core.distillation.methods.feature_maps import Variational
from moma_core.distillation.methods.losses import (
    at_one_size,
    attended_difference,
    correlation_congruence,
    patchwise_mse,
    similarity_preserving,
)
from moma_core.distillation.methods.torchdistill_losses import (
    attention_transfer,
    probabilistic_transfer,
    relational,
    variational_information,
)

Golden = Callable[[str], dict[str, Tensor]]
EXACT = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture
def vectors(golden: Golden) -> dict[str, Tensor]:
    return golden("baselines")


@pytest.mark.parametrize(
    ("make_loss", "name"),
    [
        (lambda: F.mse_loss, "hint_mse"),
        (lambda: similarity_preserving, "similarity_preserving_embeddings"),
        (lambda: correlation_congruence, "correlation_congruence"),
        (lambda: relational(25, 50), "relational_kd"),
        (probabilistic_transfer, "probabilistic_kt"),
    ],
    ids=["hint", "sp", "cc", "rkd", "pkt"],
)
def test_a_loss_of_embeddings_equals_the_published_one(
    vectors: dict[str, Tensor],
    make_loss: Callable[[], Callable[[Tensor, Tensor], Tensor]],
    name: str,
) -> None:
    found = make_loss()(vectors["student_embedding"], vectors["teacher_embedding"])

    torch.testing.assert_close(found, vectors[name], **EXACT)


def test_attention_transfer_equals_the_published_one(
    vectors: dict[str, Tensor],
) -> None:
    loss = attention_transfer()

    found = sum(
        loss(*at_one_size(vectors[f"student_map_{i}"], vectors[f"teacher_map_{i}"]))
        for i in range(2)
    )

    torch.testing.assert_close(found, vectors["attention_transfer_sum"], **EXACT)


def test_similarity_preserving_of_maps_equals_the_published_one(
    vectors: dict[str, Tensor],
) -> None:
    found = similarity_preserving(vectors["student_map_1"], vectors["teacher_map_1"])

    torch.testing.assert_close(found, vectors["similarity_preserving_maps_1"], **EXACT)


def test_variational_information_equals_the_published_one(
    vectors: dict[str, Tensor],
) -> None:
    student, teacher = vectors["student_map_0"], vectors["teacher_map_0"]
    regressor = Variational(student.shape[1], teacher.shape[1], variance=5.0).double()
    regressor.load_state_dict(
        {
            "mean.0.weight": vectors["vid_w0"],
            "mean.2.weight": vectors["vid_w1"],
            "mean.4.weight": vectors["vid_w2"],
            "log_scale": vectors["vid_log_scale"],
        }
    )

    found = variational_information()(regressor(student), teacher)

    torch.testing.assert_close(found, vectors["vid_loss"], **EXACT)


def test_two_calls_of_crd_equal_the_published_ones(vectors: dict[str, Tensor]) -> None:
    before = vectors["crd_memory_student_before"]
    memory = ContrastMemory(
        *before.shape,
        temperature=float(vectors["crd_temperature"]),
        momentum=float(vectors["crd_momentum"]),
        seed=0,
    ).double()
    memory.student.copy_(before)
    memory.teacher.copy_(vectors["crd_memory_teacher_before"])
    student, teacher = (
        F.normalize(F.linear(vectors[f"{side}_embedding"], weight, bias))
        for side, weight, bias in (
            ("student", vectors["crd_ws"], vectors["crd_bs"]),
            ("teacher", vectors["crd_wt"], vectors["crd_bt"]),
        )
    )

    for call in ("first", "second"):
        loss = memory(student, teacher, vectors["crd_contrast_idx"])
        memory.remember(student, teacher, vectors["crd_idx"])

        torch.testing.assert_close(loss, vectors[f"crd_loss_{call}"], **EXACT)
    for side in ("student", "teacher"):
        after = vectors[f"crd_memory_{side}_after"]
        torch.testing.assert_close(getattr(memory, side), after, **EXACT)


def test_semckd_equals_the_published_one(vectors: dict[str, Tensor]) -> None:
    pairs = [
        patchwise_mse(
            vectors[f"semckd_student_{own}{other}"],
            vectors[f"semckd_teacher_{own}{other}"],
        )
        for own in range(2)
        for other in range(2)
    ]
    differences = torch.stack(pairs, dim=1).unflatten(1, (2, 2))

    found = attended_difference(vectors["semckd_weight"], differences)

    torch.testing.assert_close(found, vectors["semckd_loss"], **EXACT)
