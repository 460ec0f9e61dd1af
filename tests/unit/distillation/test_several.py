"""A step with several teachers, held against steps with each of them alone."""

import copy

import pytest
import torch
from torch import Tensor

from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.several import SeveralDistillers
from moma_core.distillation.step import MomaDistiller
from moma_core.models.encoder import Encoder
from moma_core.teacher.protocol import SeveralOutputs, TeacherOutput
from tests.support.site.tiny import ConvEncoder

SETTINGS = DistillationSettings(
    head="mlp", feature_length=8, bank_size=32, bank_start="random"
)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
ALL = torch.arange(6)
FIRST, SECOND = "teacher-a", "teacher-b"
WEIGHTS = {FIRST: 0.75, SECOND: 0.25}


def _images(size: int = 6) -> Tensor:
    return torch.rand(size, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def _answer(length: int, classes: int, seed: int, size: int = 6) -> TeacherOutput:
    generator = torch.Generator().manual_seed(seed)
    return TeacherOutput(
        torch.randn(size, length, generator=generator),
        torch.randn(size, classes, generator=generator),
    )


NEAR, FAR = _answer(8, 3, seed=2), _answer(5, 4, seed=3)


def _alone(student: Encoder, **changes: object) -> dict[str, MomaDistiller]:
    """One of the student's classes in another order, and one of others."""
    torch.manual_seed(4)
    settings = SETTINGS.model_copy(update=changes)
    order = torch.tensor([2, 0, 1])
    near = MomaDistiller(
        student, settings, teacher_length=8, teacher_classes=3, class_order=order
    )
    far = MomaDistiller(student, SETTINGS, teacher_length=5, teacher_classes=4)
    return {FIRST: near, SECOND: far}


def _together(student: Encoder, **changes: object) -> SeveralDistillers:
    return SeveralDistillers(student, _alone(student, **changes), WEIGHTS)


def _said(near: Tensor = ALL, far: Tensor = ALL) -> SeveralOutputs:
    def part(output: TeacherOutput, places: Tensor) -> TeacherOutput:
        return TeacherOutput(output.embedding[places], output.logits[places])

    return SeveralOutputs((part(NEAR, near), part(FAR, far)), (near, far))


def test_the_total_is_the_cross_entropy_and_a_weighted_sum_of_each_teachers_terms() -> (
    None
):
    student = ConvEncoder().eval()
    near, far = _alone(student).values()

    found = _together(student)(_images(), LABELS, _said()).losses
    first, second = near(_images(), LABELS, NEAR).losses, far(_images(), LABELS, FAR)

    contrastive = 0.75 * first.contrastive + 0.25 * second.losses.contrastive
    distillation = 0.75 * first.distillation
    assert first.distillation > 0
    assert second.losses.distillation == 0  # other classes: no KL
    torch.testing.assert_close(found.classification, first.classification)
    torch.testing.assert_close(found.contrastive, contrastive)
    torch.testing.assert_close(found.distillation, distillation)
    torch.testing.assert_close(
        found.total, first.classification + 3 * contrastive + 3 * distillation
    )


def test_rows_that_a_teacher_did_not_answer_add_nothing_to_its_terms() -> None:
    student = ConvEncoder().eval()
    own = torch.tensor([1, 2, 4])
    far = _alone(student)[SECOND]
    part = TeacherOutput(FAR.embedding[own], FAR.logits[own])

    whole = _together(student)(_images(), LABELS, _said(far=own)).losses
    without = _together(student)(_images(), LABELS, _said(far=ALL[:0])).losses
    alone = far(_images()[own], LABELS[own], part).losses

    added = whole.contrastive - without.contrastive
    torch.testing.assert_close(added, 0.25 * 3 / 6 * alone.contrastive)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_teacher_that_is_away_drops_its_own_term_alone(rows: int) -> None:
    student = ConvEncoder().eval()
    together = _together(student)
    before = copy.deepcopy(together.state_dict())

    losses, keys = together(_images(), LABELS, _said(far=ALL[:rows]))
    losses.total.backward()
    assert keys is not None
    together.update_memory(keys)

    near = _alone(student)[FIRST](_images(), LABELS, NEAR).losses
    torch.testing.assert_close(losses.contrastive, 0.75 * near.contrastive)
    moved = {
        name
        for name, tensor in together.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert any(name.startswith(f"teachers.{FIRST}.bank") for name in moved)
    assert not any(name.startswith(f"teachers.{SECOND}") for name in moved)


def test_each_teacher_has_an_adapter_and_a_bank_and_the_student_is_kept_once() -> None:
    together = _together(ConvEncoder())

    losses, keys = together(_images(), LABELS, _said())
    losses.total.backward()
    together.update_memory(keys)
    state = together.state_dict()

    assert {name.split(".")[0] for name in state} == {"student", "teachers"}
    assert not any(".student." in name for name in state)
    assert state[f"teachers.{FIRST}.bank.cursor"] == 6
    assert state[f"teachers.{SECOND}.bank.cursor"] == 6
    own = {name for name, _ in together.teachers.named_parameters()}
    assert f"{SECOND}.adapter.weight" in own
    assert together.teachers[SECOND].adapter.weight.grad.abs().sum() > 0

    other = _together(ConvEncoder())
    other.load_state_dict(state)
    torch.testing.assert_close(other.state_dict(), state)


def test_a_teacher_that_withholds_embeddings_has_no_contrast_and_the_others_do() -> (
    None
):
    student = ConvEncoder().eval()
    far = _alone(student)[SECOND](_images(), LABELS, FAR).losses

    together = _together(student, contrastive_weight=0.0)
    losses = together(_images(), LABELS, _said()).losses

    torch.testing.assert_close(losses.contrastive, 0.25 * far.contrastive)
    assert losses.distillation > 0


def test_a_pass_that_is_taken_back_leaves_everything_as_it_was() -> None:
    together = _together(ConvEncoder()).train()
    before = copy.deepcopy(together.state_dict())
    kept = [tensor.clone() for tensor in together.moved_by_forward()]

    together(_images(), LABELS, _said())
    with torch.no_grad():
        for tensor, former in zip(together.moved_by_forward(), kept, strict=True):
            tensor.copy_(former)

    torch.testing.assert_close(together.state_dict(), before, rtol=0, atol=0)
