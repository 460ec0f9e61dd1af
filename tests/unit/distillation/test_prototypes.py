"""Class centres in the memory bank, held against numpy, and what they are made of."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from moma_core.data.patch import NO_LABEL
from moma_core.distillation.memory_bank import Keys
from moma_core.distillation.settings import DistillationSettings, OtherClasses
from moma_core.distillation.step import MomaDistiller
from moma_core.distillation.terms.prototypes import (
    TEMPERATURE,
    prototype_classes,
    prototype_loss,
)
from moma_core.models.backbone import Backbone
from moma_core.teacher.protocol import TeacherOutput

_CLASSES, _LENGTH = 3, 8
_NO_LABELS = torch.full((6,), NO_LABEL)
_Floats = NDArray[np.float64]


def _bank(seed: int = 0) -> Keys:
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(20, _LENGTH, generator=random)
    classes = torch.tensor([0, 1, 2, NO_LABEL] * 5)
    return Keys(torch.nn.functional.normalize(rows, dim=1), classes)


def _key() -> Tensor:
    random = torch.Generator().manual_seed(9)
    rows = torch.randn(6, _LENGTH, generator=random)
    return torch.nn.functional.normalize(rows, dim=1)


def _unit(rows: _Floats) -> _Floats:
    return np.array([row / np.sqrt((row * row).sum()) for row in rows])


def _softmax(row: _Floats) -> _Floats:
    powers = np.exp(row - row.max())
    return np.asarray(powers / powers.sum())


def _by_hand(key: _Floats, rows: _Floats, classes: list[int]) -> _Floats:
    """Returns the same row by row, with loops in the place of products of matrices."""
    middle = rows.mean(axis=0)
    held, asked = _unit(rows - middle), _unit(key - middle)
    first = _unit(
        np.array(
            [
                sum(row for row, own in zip(held, classes, strict=True) if own == each)
                for each in range(_CLASSES)
            ]
        )
    )
    sums = np.zeros((_CLASSES, _LENGTH))
    for row, own in zip(held, classes, strict=True):
        if own == NO_LABEL:
            shares = _softmax(np.array([row @ one for one in first]) / TEMPERATURE)
            sums += np.outer(shares, row)
        else:
            sums[own] += row
    centres = _unit(sums)
    return np.array(
        [_softmax(np.array([row @ c for c in centres]) / TEMPERATURE) for row in asked]
    )


def test_classes_are_those_of_the_refined_centres() -> None:
    bank, key = _bank(), _key()

    found = prototype_classes(key, bank, _CLASSES)

    expected = _by_hand(
        key.double().numpy(), bank.features.double().numpy(), bank.classes.tolist()
    )
    assert np.allclose(found.numpy(), expected, atol=1e-5)
    assert np.allclose(found.sum(dim=1).numpy(), 1)


def test_the_loss_is_the_cross_entropy_to_them_and_moves_the_student_alone() -> None:
    bank, key = _bank(), _key()
    logits = torch.randn(6, _CLASSES, requires_grad=True)

    loss = prototype_loss(logits, key, _NO_LABELS, bank)
    loss.backward()

    target = prototype_classes(key, bank, _CLASSES)
    expected = torch.nn.functional.cross_entropy(logits, target)
    assert loss.item() == pytest.approx(expected.item())
    assert logits.grad is not None
    moved = (logits.detach().softmax(dim=1) - target) / 6
    assert torch.allclose(logits.grad, moved, atol=1e-6)


@pytest.mark.parametrize("held", [0, 4])
def test_without_a_label_in_the_bank_there_is_nothing_to_learn(held: int) -> None:
    bank = Keys(_bank().features[:held], torch.full((held,), NO_LABEL))
    logits = torch.randn(6, _CLASSES, requires_grad=True)

    loss = prototype_loss(logits, _key(), _NO_LABELS, bank)
    loss.backward()

    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad) == 0


def test_a_class_that_no_key_has_yet_is_no_keys_class() -> None:
    bank = _bank()
    classes = torch.where(bank.classes == 2, NO_LABEL, bank.classes)

    found = prototype_classes(_key(), Keys(bank.features, classes), _CLASSES)

    assert torch.count_nonzero(found[:, 2]) == 0
    assert torch.allclose(found.sum(dim=1), torch.ones(6))


def _distiller(kind: OtherClasses, order: Tensor | None = None) -> MomaDistiller:
    torch.manual_seed(0)
    student = Backbone("mobilenetv3_small_050", _CLASSES)
    settings = DistillationSettings(other_classes=kind, bank_size=64)
    return MomaDistiller(
        student.eval(),
        settings,
        teacher_length=_LENGTH,
        teacher_classes=5 if order is None else _CLASSES,
        class_order=order,
    )


def test_a_teacher_of_other_classes_gives_soft_targets_by_the_sites_labels() -> None:
    random = torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 1, 2, NO_LABEL])
    images = torch.randn(4, 3, 32, 32, generator=random)
    output = TeacherOutput(
        torch.randn(4, _LENGTH, generator=random),
        torch.randn(4, 5, generator=random),
    )
    without, with_them = _distiller("ignored"), _distiller("prototypes")

    steps = []
    for distiller in (without, with_them):
        step = distiller(images, labels, output)
        distiller.update_memory(step.new_keys)
        steps.append((step.losses, distiller(images, labels, output).losses))

    assert [losses.distillation.item() for losses in steps[0]] == [0, 0]
    first, second = steps[1]
    assert first.distillation.item() == 0  # the bank is empty
    bank = with_them.bank.negatives()
    assert bank.classes.tolist() == labels.tolist()
    logits = with_them.student(images).logits
    expected = prototype_loss(logits, bank.features, labels, bank)
    assert second.distillation.item() == pytest.approx(3 * expected.item(), rel=1e-5)
    assert second.contrastive.item() == pytest.approx(steps[0][1].contrastive.item())


def test_a_teacher_of_the_same_classes_is_learned_from_by_its_logits() -> None:
    labels = torch.tensor([0, NO_LABEL])
    images = torch.randn(2, 3, 32, 32)
    output = TeacherOutput(torch.randn(2, _LENGTH), torch.randn(2, _CLASSES))
    order = torch.arange(_CLASSES)

    found = [
        _distiller(kind, order)(images, labels, output).losses.distillation.item()
        for kind in ("ignored", "prototypes")
    ]

    assert found[0] == found[1] > 0


def test_a_row_whose_own_class_has_no_key_yet_learns_no_other_one() -> None:
    bank = _bank()
    bank = Keys(bank.features, torch.where(bank.classes == 2, NO_LABEL, bank.classes))
    logits = torch.randn(6, _CLASSES, requires_grad=True)
    labels = torch.tensor([2, 2, 0, 1, NO_LABEL, NO_LABEL])

    prototype_loss(logits, _key(), labels, bank).backward()

    assert logits.grad is not None
    assert logits.grad.abs().sum(dim=1).gt(0).tolist() == [False] * 2 + [True] * 4


def test_under_autocast_centres_are_as_exact_as_without() -> None:
    bank, key = _bank(), _key()
    logits = torch.randn(6, _CLASSES)
    expected = prototype_loss(logits, key, _NO_LABELS, bank)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = prototype_loss(logits, key, _NO_LABELS, bank)

    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{"bank": "teacher_masked"}, {"bank_start": "random"}, {"attention": "published"}],
)
def test_a_bank_without_the_sites_classes_or_of_mixtures_makes_no_centres(
    changes: dict[str, Any],
) -> None:
    assert DistillationSettings().has_prototypes
    assert not DistillationSettings(**changes).has_prototypes
    assert not DistillationSettings.published().has_prototypes
