from collections.abc import Iterator

import pytest
import torch

from moma_core.data.batch import Batch
from moma_core.models.ema import MomentumTerms
from moma_core.models.settings import BatchNorm, Schedule
from moma_core.teacher.local import FrozenTeacher, MomentumTeacher
from tests.support.site.tiny import ConvEncoder, random_batches

SAME_ORDER = (0, 1, 2)


def _prepare(views: torch.Tensor) -> torch.Tensor:
    return views.float() / 255


def _moving(
    schedule: Schedule,
    class_order: tuple[int, ...] | None = SAME_ORDER,
    batch_norm: BatchNorm = "moving",
) -> tuple[MomentumTeacher, ConvEncoder]:
    student = ConvEncoder()
    teacher = MomentumTeacher(
        ConvEncoder(),
        student,
        _prepare,
        MomentumTerms(0.5, batch_norm, class_order),
        schedule,
    )
    return teacher, student


def test_a_frozen_teacher_never_moves_and_answers_without_gradient() -> None:
    encoder = ConvEncoder()
    before = encoder.conv.weight.clone()

    answers = [
        a for _, a in FrozenTeacher(encoder, _prepare).answer_batches(random_batches(3))
    ]

    assert torch.equal(encoder.conv.weight, before)
    assert not any(a.embedding.requires_grad for a in answers)
    assert not encoder.training


def test_the_published_schedule_takes_logits_before_and_embedding_after_the_move() -> (
    None
):
    teacher, student = _moving("published")
    (batch,) = random_batches(1)
    views = _prepare(batch.views)
    before = teacher.encoder(views)

    ((_, answer),) = teacher.answer_batches([batch])

    after = teacher.encoder(views)
    assert torch.equal(answer.logits, before.logits)
    assert torch.equal(answer.embedding, after.embedding)
    assert not torch.equal(before.embedding, after.embedding)
    assert student.training


def test_a_single_pass_takes_both_after_the_move() -> None:
    teacher, _ = _moving("single_pass")
    (batch,) = random_batches(1)

    ((_, answer),) = teacher.answer_batches([batch])

    after = teacher.encoder(_prepare(batch.views))
    assert torch.equal(answer.logits, after.logits)
    assert torch.equal(answer.embedding, after.embedding)


def test_a_classifier_over_other_classes_stays() -> None:
    teacher, _ = _moving("single_pass", class_order=None)
    before = teacher.encoder.fc.weight.clone()

    list(teacher.answer_batches(random_batches(2)))

    assert torch.equal(teacher.encoder.fc.weight, before)


@torch.no_grad()
def test_a_classifier_follows_by_class_and_not_by_position() -> None:
    class_order = (2, 0, 1)  # the student's class 0 is the teacher's 2
    teacher, student = _moving("single_pass", class_order)
    weight = teacher.encoder.fc.weight.clone()
    bias = teacher.encoder.fc.bias.clone()

    list(teacher.answer_batches(random_batches(1)))

    moved = teacher.encoder.fc
    for own, its in enumerate(class_order):
        expected = (weight[its] + student.fc.weight[own]) / 2
        torch.testing.assert_close(moved.weight[its], expected)
        torch.testing.assert_close(
            moved.bias[its], (bias[its] + student.fc.bias[own]) / 2
        )


@pytest.mark.parametrize("schedule", ["published", "single_pass"])
def test_a_moving_teacher_does_not_read_ahead_of_the_loop(schedule: Schedule) -> None:
    teacher, _ = _moving(schedule)
    read: list[int] = []

    def batches() -> Iterator[Batch]:
        for batch in random_batches(3):
            read.append(batch.step)
            yield batch

    next(teacher.answer_batches(batches()))

    assert read == [0]


def test_an_adapting_batch_norm_normalises_by_the_batch_and_dropout_stays_off() -> None:
    teacher, _ = _moving("single_pass", batch_norm="adapt")
    (batch,) = random_batches(1)
    statistics = teacher.encoder.norm.running_mean.clone()

    ((_, answer),) = teacher.answer_batches([batch])

    maps = teacher.encoder.conv(_prepare(batch.views))
    mean = maps.mean(dim=(0, 2, 3), keepdim=True)
    deviation = (maps.var(dim=(0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    expected = ((maps - mean) / deviation).relu().mean(dim=(2, 3))
    torch.testing.assert_close(answer.embedding, expected)
    assert torch.equal(teacher.encoder.norm.running_mean, statistics)
    assert not teacher.encoder.drop.training


def test_a_moving_batch_norm_normalises_by_what_followed_the_student() -> None:
    teacher, student = _moving("single_pass")
    student.norm.running_mean.fill_(3.0)
    (batch,) = random_batches(1)

    list(teacher.answer_batches([batch]))

    assert teacher.encoder.norm.running_mean.tolist() == [1.5] * 8
    assert not teacher.encoder.norm.training
