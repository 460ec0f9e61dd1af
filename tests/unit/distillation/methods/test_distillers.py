"""What all methods have in common."""

from typing import get_args

import pytest
import torch
from torch import nn

from moma_core.data.patch import NO_LABEL
from moma_core.distillation.methods.names import (
    METHODS,
    BaselineName,
    Method,
    uses_outputs,
)
from moma_core.distillation.methods.registry import make_distiller
from moma_core.distillation.step import Distiller, StepOutput
from moma_core.models.encoder import Encoder
from tests.support.site.method_bench import (
    BATCH,
    ROWS,
    answer_of,
    images,
    local_pair,
    setup_for,
)
from tests.support.site.tiny import ConvEncoder, TwoStageEncoder

LABELS = torch.tensor([0, 1, 2, NO_LABEL, NO_LABEL, NO_LABEL])
TAUGHT: list[Method] = [
    method for method in METHODS if uses_outputs(method) and method != "moma"
]


def _step(distiller: Distiller, teacher: Encoder, seed: int = 1) -> StepOutput:
    views = images(seed)
    output: StepOutput = distiller(
        views, LABELS, answer_of(teacher, views), ROWS[:BATCH]
    )
    return output


def _grads(module: nn.Module) -> dict[str, bool]:
    return {
        name: weight.grad is not None and bool(weight.grad.abs().sum() > 0)
        for name, weight in module.named_parameters()
    }


def test_every_baseline_that_a_config_may_name_has_a_distiller() -> None:
    assert set(METHODS) == {"moma", *get_args(BaselineName)}
    assert len(METHODS) == 21


@pytest.mark.parametrize("method", TAUGHT)
@pytest.mark.parametrize("length", [8, 4, 20])
def test_the_lesson_reaches_the_students_body_and_no_teacher(
    method: Method, length: int
) -> None:
    distiller, teacher = local_pair(method, length=length)
    distiller.settings = distiller.settings.model_copy(
        update={"classification_weight": 0.0}
    )

    losses = _step(distiller, teacher).losses
    losses.total.backward()

    reached = _grads(distiller.student)
    assert losses.distillation > 0
    assert losses.contrastive == 0
    assert any(seen for name, seen in reached.items() if name.endswith("first.weight"))
    assert not any(weight.requires_grad for weight in teacher.parameters())


@pytest.mark.parametrize("method", TAUGHT)
def test_every_weight_that_learns_takes_part_in_a_step(method: Method) -> None:
    distiller, teacher = local_pair(method, length=20)

    _step(distiller, teacher).losses.total.backward()

    learns = [weight for weight in distiller.parameters() if weight.requires_grad]
    assert all(weight.grad is not None for weight in learns)


@pytest.mark.parametrize("method", TAUGHT)
def test_unlabelled_rows_take_part_in_the_lesson(method: Method) -> None:
    distiller, teacher = local_pair(method)
    distiller.eval()  # the batch norm of one row says nothing of another
    views = images()
    other = views.clone()
    other[-1] = other[-1].flip(1)
    answer = answer_of(teacher, views)

    one = distiller(views, LABELS, answer, ROWS[:BATCH]).losses
    two = distiller(other, LABELS, answer, ROWS[:BATCH]).losses

    assert one.classification == two.classification
    assert one.distillation != two.distillation


@pytest.mark.parametrize("method", TAUGHT)
def test_a_batch_without_labels_and_one_without_an_answer_are_finite(
    method: Method,
) -> None:
    distiller, teacher = local_pair(method)
    views = images()

    none = torch.full((BATCH,), NO_LABEL)
    taught = distiller(views, none, answer_of(teacher, views), ROWS[:BATCH]).losses
    alone = distiller(views, LABELS, None, ROWS[:BATCH]).losses

    assert taught.classification == 0
    assert taught.total.isfinite()
    assert alone.distillation == 0


@pytest.mark.parametrize("method", TAUGHT)
def test_a_batch_of_two_rows_gives_finite_gradients(method: Method) -> None:
    distiller, teacher = local_pair(method)
    views = images()[:2]

    output = distiller(views, LABELS[:2], answer_of(teacher, views), ROWS[:2])
    output.losses.total.backward()

    grads = [weight.grad for weight in distiller.parameters()]
    assert all(grad.isfinite().all() for grad in grads if grad is not None)


@pytest.mark.parametrize("method", TAUGHT)
def test_a_methods_term_scales_with_its_weight(method: Method) -> None:
    one, teacher = local_pair(method)
    half, _ = local_pair(method, weight_scale=0.5)

    found = _step(half, teacher).losses.distillation
    expected = _step(one, teacher).losses.distillation / 2

    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", TAUGHT)
def test_a_student_in_half_precision_is_compared_in_single(method: Method) -> None:
    distiller, teacher = local_pair(method)
    views = images()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = distiller(
            views, LABELS, answer_of(teacher, views), ROWS[:BATCH]
        ).losses

    assert losses.distillation.dtype == torch.float32
    assert losses.total.isfinite()


@pytest.mark.parametrize("method", TAUGHT)
def test_a_methods_state_comes_back_from_a_state_dict(method: Method) -> None:
    distiller, teacher = local_pair(method)
    output = _step(distiller, teacher)
    if output.new_keys is not None:
        distiller.update_memory(output.new_keys)
    other, _ = local_pair(method)

    other.load_state_dict(distiller.state_dict())

    assert all(tensor.isfinite().all() for tensor in distiller.state_dict().values())
    expected = _step(distiller, teacher, seed=2).losses.total
    torch.testing.assert_close(_step(other, teacher, seed=2).losses.total, expected)


@pytest.mark.parametrize(
    "method",
    [
        "kd",
        "hint",
        "sp",
        "cc",
        "rkd",
        "pkt",
        "crd",
        "dist",
        "dkd",
        "zkd",
        "wttm",
        "vkd",
        "cosine_hint",
    ],
)
def test_answers_alone_are_enough_for_an_encoder_without_maps(method: Method) -> None:
    teacher = TwoStageEncoder(length=20).eval()
    setup = setup_for(None, length=20, class_order=torch.arange(3))

    distiller = make_distiller(method, ConvEncoder(), setup)

    assert _step(distiller, teacher).losses.distillation > 0
