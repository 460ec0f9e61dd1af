"""A teacher that follows the student, and hears of it only once in S steps."""

import copy
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from moma_core.data.batch import Batch
from moma_core.models.backbone import Backbone, Normalise
from moma_core.models.ema import (
    DeferredMomentum,
    MomentumTerms,
    set_batch_norm,
    share_after,
    update_teacher,
)
from moma_core.models.encoder import Encoder
from moma_core.models.settings import BatchNorm, Schedule
from moma_core.teacher.local import MomentumTeacher
from moma_core.teacher.protocol import Teacher, TeacherOutput


class Moving(NamedTuple):
    """How a teacher moves.

    Args:
        schedule: When, within a step.
        sync_every: S, steps between two syncs; 1 is a move each step.
        batch_norm: What normalises its batches.
    """

    schedule: Schedule
    sync_every: int = 1
    batch_norm: BatchNorm = "moving"


def moving_teacher(
    encoder: Backbone, student: Encoder, terms: MomentumTerms, moving: Moving
) -> Teacher:
    """Returns a private copy of a teacher that moves with a student."""
    own = copy.deepcopy(encoder)
    normalise = Normalise(encoder.mean, encoder.std)
    if moving.sync_every == 1:
        return MomentumTeacher(own, student, normalise, terms, moving.schedule)
    return DeferredTeacher(own, student, normalise, terms, moving.sync_every)


class DeferredTeacher:
    """Moves at every S-th step by all that the student did since; one pass a step.

    Args:
        encoder: A copy of its own.
        student: Leads; only read.
        normalise: From uint8 views to what the encoder takes.
        terms: How it moves.
        sync_every: S.
    """

    def __init__(
        self,
        encoder: Backbone,
        student: Encoder,
        normalise: Normalise,
        terms: MomentumTerms,
        sync_every: int,
    ) -> None:
        set_batch_norm(encoder.requires_grad_(False), terms.batch_norm)
        self._encoder, self._normalise = encoder, normalise
        self._start = copy.deepcopy(encoder.state_dict())
        self._terms, self._sync_every = terms, sync_every
        self._deferred = DeferredMomentum(student, terms)

    @torch.no_grad()
    def answer_batches(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, TeacherOutput]]:
        """Answers each batch when the loop asks for it."""
        for batch in batches:
            self._deferred.add(batch.step)
            if (batch.step + 1) % self._sync_every == 0:
                self._sync()
            yield batch, TeacherOutput(*self._encoder(self._normalise(batch.views)))

    def _sync(self) -> None:
        steps, mean = self._deferred.newest()
        self._encoder.load_state_dict(self._start)
        update_teacher(
            self._encoder, mean, self._terms, share_after(self._terms.decay, steps)
        )
