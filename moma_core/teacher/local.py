"""Teachers whose weights lie on the site's own disk (`teacher.mode: local`).

Frozen, or moving with the student as published. The published schedule asks for
logits before the teacher moves and for embeddings after it, two passes a step;
`single_pass` takes both after the move.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from moma_core.data.batch import Batch
from moma_core.models.ema import (
    MomentumTerms,
    move,
    set_batch_norm,
    updated_weights,
)
from moma_core.models.encoder import Encoder
from moma_core.models.settings import Schedule
from moma_core.teacher.protocol import TeacherOutput

Prepare = Callable[[Tensor], Tensor]


class AbsentTeacher:
    """No teacher: what a baseline trains with."""

    def answer_batches(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, None]]:
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
    def answer_batches(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, TeacherOutput]]:
        """Answers each batch when the loop asks for it."""
        for batch in batches:
            yield batch, TeacherOutput(*self._look(self._prepare(batch.views)))


class MomentumTeacher:
    """A private copy that follows the student by its EMA: the published teacher.

    Args:
        encoder: Same architecture as the student.
        student: Leads; only read.
        prepare: From (N, 3, H, W) uint8 views to what the encoder takes.
        terms: How it moves.
        schedule: When it moves within a step.
    """

    def __init__(
        self,
        encoder: Encoder,
        student: Encoder,
        prepare: Prepare,
        terms: MomentumTerms,
        schedule: Schedule,
    ) -> None:
        self.encoder = encoder.requires_grad_(False)
        set_batch_norm(encoder, terms.batch_norm)
        self._student = student
        self._prepare = prepare
        self._terms = terms
        self._schedule = schedule

    def answer_batches(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, TeacherOutput]]:
        """Moves and answers once a batch, not before the loop asks for it."""
        for batch in batches:
            yield batch, self._answer(self._prepare(batch.views))

    @torch.no_grad()
    def _answer(self, images: Tensor) -> TeacherOutput:
        if self._schedule == "published":
            before = self.encoder(images).logits
            self._move()
            return TeacherOutput(self.encoder(images).embedding, before)
        self._move()
        after = self.encoder(images)
        return TeacherOutput(after.embedding, after.logits)

    def _move(self) -> None:
        student = updated_weights(self._student, self._terms)
        move(self.encoder, student, self._terms, 1 - self._terms.decay)
