"""Teachers whose weights lie on the site's own disk (`teacher.mode: local`).

Frozen, or updated from the student as published. The published schedule takes logits
before the teacher's update and embeddings after it, two passes a step; `single_pass`
takes both after the update.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from moma_core.data.batch import Batch
from moma_core.models.ema import (
    MomentumTerms,
    set_batch_norm,
    update_teacher,
    updated_weights,
)
from moma_core.models.encoder import Encoder
from moma_core.models.settings import Schedule
from moma_core.teacher.protocol import TeacherOutput

Prepare = Callable[[Tensor], Tensor]


class AbsentTeacher:
    """No teacher: what a baseline trains with."""

    def answer_batches(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, None]]:
        """Yields each batch without an output."""
        for batch in batches:
            yield batch, None


class FrozenTeacher:
    """A teacher whose weights never change.

    Args:
        encoder: Its weights; set to evaluation mode.
        prepare: From (N, 3, H, W) uint8 views to what the encoder takes.
        maps: Whether its outputs have feature maps.
    """

    def __init__(
        self, encoder: Encoder, prepare: Prepare, *, maps: bool = False
    ) -> None:
        encoder.eval().requires_grad_(False)
        self._forward = encoder.with_maps if maps else encoder
        self._prepare = prepare

    @torch.no_grad()
    def answer_batches(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, TeacherOutput]]:
        """Yields each batch with its outputs, computed when the loop takes it."""
        for batch in batches:
            yield batch, TeacherOutput(*self._forward(self._prepare(batch.views)))


class MomentumTeacher:
    """A private copy, updated from the student by EMA: the published teacher.

    Args:
        encoder: Same architecture as the student.
        student: Only read.
        prepare: From (N, 3, H, W) uint8 views to what the encoder takes.
        terms: How it is updated.
        schedule: When it is updated within a step.
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
        """Updates the copy once a batch, not before the loop takes the batch."""
        for batch in batches:
            yield batch, self._output(self._prepare(batch.views))

    @torch.no_grad()
    def _output(self, images: Tensor) -> TeacherOutput:
        if self._schedule == "published":
            before = self.encoder(images).logits
            self._update()
            return TeacherOutput(self.encoder(images).embedding, before)
        self._update()
        after = self.encoder(images)
        return TeacherOutput(after.embedding, after.logits)

    def _update(self) -> None:
        student = updated_weights(self._student, self._terms)
        update_teacher(self.encoder, student, self._terms, 1 - self._terms.decay)
