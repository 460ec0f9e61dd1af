"""MixUp with answers: what is learned of a mixture is that of its two patches."""

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.quality.mixed_answers import MixedAnswers
from moma_core.data.patch import NO_LABEL
from moma_core.distillation.losses import labelled_cross_entropy
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import MomaDistiller, StepOutput
from moma_core.models.backbone import Backbone
from moma_core.teacher.protocol import TeacherOutput

CLASSES, SIDE_PX, ROWS = 3, 32, 6


def _method() -> MomaDistiller:
    torch.manual_seed(0)
    student = Backbone("mobilenetv3_small_050", CLASSES).eval()
    return MomaDistiller(
        student,
        DistillationSettings(bank_size=8),
        teacher_length=5,
        teacher_classes=CLASSES,
        class_order=torch.arange(CLASSES),
    )


def _batch(patches: int) -> tuple[Tensor, Tensor, TeacherOutput, Tensor]:
    """Returns so many different patches, again and again."""
    torch.manual_seed(1)
    places = torch.arange(ROWS) % patches
    images = torch.rand(patches, 3, SIDE_PX, SIDE_PX)[places]
    labels = torch.tensor([0, 2, NO_LABEL, 1, 1, 0])[:patches][places]
    answer = TeacherOutput(
        torch.randn(patches, 5)[places], torch.randn(patches, CLASSES)[places]
    )
    return images, labels, answer, torch.arange(ROWS)


def _mixed(batch: tuple[Tensor, Tensor, TeacherOutput, Tensor]) -> StepOutput:
    return MixedAnswers(_method(), alpha=1.0, seed=0)(*batch)


def test_a_mixture_of_equal_patches_is_the_patch() -> None:
    batch = _batch(patches=1)

    plain, mixed = _method()(*batch), _mixed(batch)

    assert torch.allclose(
        torch.stack(mixed.losses), torch.stack(plain.losses), rtol=1e-4
    )


def test_either_patch_counts_by_its_part() -> None:
    images, labels, answer, rows = _batch(ROWS)
    random = np.random.default_rng(0)
    part, other = random.beta(1.0, 1.0), torch.from_numpy(random.permutation(ROWS))
    mixed = MixedAnswers(_method(), alpha=1.0, seed=0)
    seen = list[Tensor]()
    mixed.student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    losses = mixed(images, labels, answer, rows).losses

    mixture = part * images + (1 - part) * images[other]
    assert torch.allclose(seen[0], mixture)
    logits = mixed.student(mixture).logits
    one, two = (
        labelled_cross_entropy(logits, each) for each in (labels, labels[other])
    )
    assert losses.classification.item() == pytest.approx(
        (part * one + (1 - part) * two).item()
    )


def test_the_memory_gets_the_answers_about_patches() -> None:
    batch = _batch(ROWS)

    plain, mixed = _method()(*batch), _mixed(batch)

    assert plain.new_keys is not None
    assert mixed.new_keys is not None
    assert torch.equal(mixed.new_keys.features, plain.new_keys.features)
    assert torch.equal(mixed.new_keys.classes, plain.new_keys.classes)


def test_the_parameters_are_those_of_the_method() -> None:
    method = _method()
    names = {name for name, _ in method.named_parameters()}

    mixed = MixedAnswers(method, alpha=0.2, seed=0)

    assert {
        name.removeprefix("_method.") for name, _ in mixed.named_parameters()
    } == names


def test_without_an_answer_nothing_is_mixed() -> None:
    images, labels, _, rows = _batch(ROWS)

    with pytest.raises(ValueError, match=r"training\.mixup"):
        MixedAnswers(_method(), alpha=1.0, seed=0)(images, labels, None, rows)
