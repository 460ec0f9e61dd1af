"""What the methods of the comparison have in common: one term beside cross-entropy."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from moma_core.distillation.memory_bank import Keys
from moma_core.distillation.methods.context import DistillationContext
from moma_core.distillation.step import Distiller, ExtraLosses
from moma_core.models.encoder import Encoder, Features
from moma_core.teacher.protocol import TeacherOutput


class Term(NamedTuple):
    """What a method makes of an answer.

    Args:
        loss: A scalar, before its weight.
        keys: What `update_memory` takes after the backward pass, if anything.
    """

    loss: Tensor
    keys: Keys | None = None


class Baseline(Distiller):
    """One term of the teacher's answer, for labelled and unlabelled rows alike.

    The step's `distillation` is the term times the method's weight, and not MoMA's own
    weights for its terms: they are tuned for MoMA. It is reckoned in
    single precision also where the student runs in half: squares of unnormalised
    embeddings leave a half's range.

    Args:
        student: Its parameters learn.
        setup: All else.
        weight: The method's, before `weight_scale`.
    """

    distils = True

    def __init__(
        self, student: Encoder, setup: DistillationContext, weight: float
    ) -> None:
        once = {"contrastive_weight": 1.0, "distillation_weight": 1.0}
        super().__init__(student, setup.settings.model_copy(update=once))
        self.weight = weight * setup.numbers.weight_scale

    def extra_losses(
        self,
        features: Features,
        labels: Tensor,
        answer: TeacherOutput,
        rows: Tensor | None,
    ) -> ExtraLosses:
        """Returns the method's weighted term as the distillation."""
        with torch.autocast(features.embedding.device.type, enabled=False):
            term = self.term(
                _student_in_single(features), _teacher_in_single(answer), rows
            )
        return ExtraLosses(
            torch.zeros_like(term.loss), self.weight * term.loss, term.keys
        )

    def term(
        self, features: Features, answer: TeacherOutput, rows: Tensor | None
    ) -> Term:
        """Returns the method's loss; arguments as in `forward`."""
        raise NotImplementedError(f"{type(self).__name__} has no term")


def adapter(own_length: int, teacher_length: int) -> nn.Module:
    """Returns what brings a student's embedding to the teacher's length, if it must."""
    if own_length == teacher_length:
        return nn.Identity()
    return nn.Linear(own_length, teacher_length)


def _student_in_single(features: Features) -> Features:
    maps = tuple(map(_single, features.maps))
    return Features(_single(features.embedding), _single(features.logits), maps)


def _teacher_in_single(answer: TeacherOutput) -> TeacherOutput:
    maps = tuple(map(_single, answer.maps))
    return TeacherOutput(_single(answer.embedding), _single(answer.logits), maps)


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.element_size() < 4 else tensor
