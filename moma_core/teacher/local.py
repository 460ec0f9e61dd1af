"""Teachers whose weights lie on the site's own disk (`teacher.mode: local`).

Frozen, or moving with the student as published. The published schedule asks for
logits before the teacher moves and for embeddings after it, two passes a step;
`single_pass` takes both after the move.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from moma_core.data.batch import Batch
from moma_core.models.encoder import Encoder
from moma_core.models.momentum import follow
from moma_core.teacher.protocol import TeacherAnswer

Schedule = Literal["published", "single_pass"]
Prepare = Callable[[Tensor], Tensor]


class AbsentTeacher:
    """No teacher: what a baseline trains with."""

    def follow(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, None]]:
        """Answers nothing."""
        for batch in batches:
            yield batch, None


class FrozenTeacher:
    """A teacher that never moves.

    Args:
        encoder: Its weights; set to evaluation mode.
        prepare: From (N, 3, H, W) uint8 views to what the encoder takes.
        maps: Whether it shows its feature maps with each answer.
    """

    def __init__(
        self, encoder: Encoder, prepare: Prepare, *, maps: bool = False
    ) -> None:
        encoder.eval().requires_grad_(False)
        self._look = encoder.with_maps if maps else encoder
        self._prepare = prepare

    @torch.no_grad()
    def follow(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, TeacherAnswer]]:
        """Answers each batch when the loop asks for it."""
        for batch in batches:
            yield batch, TeacherAnswer(*self._look(self._prepare(batch.views)))


class MomentumTeacher:
    """A private copy that follows the student by its EMA: the published teacher.

    It runs with moving statistics: evaluation mode, and the running mean and variance
    of its batch norms follow the student's like any weight.

    Args:
        encoder: Same architecture as the student.
        student: Leads; only read.
        prepare: From (N, 3, H, W) uint8 views to what the encoder takes.
        momentum: EMA decay a step.
        schedule: When the teacher moves within a step.
        class_order: (C,) long, which row of its classifier follows the student's
            class c; None where the class sets differ, and the classifier stays.
    """

    def __init__(
        self,
        encoder: Encoder,
        student: Encoder,
        prepare: Prepare,
        *,
        momentum: float,
        schedule: Schedule,
        class_order: Tensor | None,
    ) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self._student = student
        self._prepare = prepare
        self._momentum = momentum
        self._schedule = schedule
        self._student_class = None if class_order is None else class_order.argsort()

    def follow(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, TeacherAnswer]]:
        """Moves and answers once a batch, not before the loop asks for it."""
        for batch in batches:
            yield batch, self._answer(self._prepare(batch.views))

    @torch.no_grad()
    def _answer(self, images: Tensor) -> TeacherAnswer:
        if self._schedule == "published":
            before = self.encoder(images).logits
            self._move()
            return TeacherAnswer(self.encoder(images).embedding, before)
        self._move()
        return TeacherAnswer(*self.encoder(images))

    def _move(self) -> None:
        classifier, decay = self.encoder.classifier, self._momentum
        follow(self.encoder, self._student, decay, except_for=classifier)
        if self._student_class is None:
            return
        led_by = self._student.classifier.parameters()
        for own, other in zip(classifier.parameters(), led_by, strict=True):
            own.mul_(decay).add_(other[self._student_class], alpha=1 - decay)
