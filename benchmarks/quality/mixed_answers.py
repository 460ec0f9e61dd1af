"""MixUp where a teacher answers: pictures are mixed, and what is learned of them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from moma_core.distillation.losses import labelled_cross_entropy
from moma_core.distillation.memory_bank import Keys
from moma_core.distillation.step import Distiller, StepLosses, StepOutput
from moma_core.models.encoder import Features
from moma_core.teacher.protocol import TeacherOutput


class MixedAnswers(Distiller):
    """A method whose student sees mixtures of two patches of its batch.

    The losses are those of either patch's label and answer, each by the patch's part of
    the mixture: the teacher is asked about patches, and never about a mixture.

    Source: MixUp, as its loss (https://arxiv.org/abs/1710.09412), with answers beside
    the labels.

    Args:
        method: Its losses; gives its student up, which is this one's.
        alpha: Of the beta distribution of a patch's part, > 0.
        seed: Of parts and pairs.
    """

    distils = True

    def __init__(self, method: Distiller, alpha: float, seed: int) -> None:
        super().__init__(method.student, method.settings)
        del method.student
        self._method, self._alpha = method, alpha
        self._random = np.random.default_rng(seed)

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        output: TeacherOutput | None,
        rows: Tensor | None = None,
    ) -> StepOutput:
        """Returns a step's losses; arguments as of every distiller."""
        if output is None or rows is None:
            raise ValueError("without a teacher `training.mixup` mixes")
        part = float(self._random.beta(self._alpha, self._alpha))
        other = torch.from_numpy(self._random.permutation(len(images)))
        features = self._features(part * images + (1 - part) * images[other])
        first = self._of(features, labels, output, rows)
        answer = TeacherOutput(output.embedding[other], output.logits[other])
        second = self._of(features, labels[other], answer, rows[other])
        pairs = zip(first.losses, second.losses, strict=True)
        losses = [part * one + (1 - part) * two for one, two in pairs]
        return StepOutput(StepLosses(*losses), first.new_keys)

    def _of(
        self, features: Features, labels: Tensor, output: TeacherOutput, rows: Tensor
    ) -> StepOutput:
        term = labelled_cross_entropy(features.logits, labels, self.label_terms)
        extra = self._method.extra_losses(features, labels, output, rows)
        return self._summed(term, extra)

    def update_memory(self, new_keys: Keys) -> None:
        """Gives the method the keys of the patches as they are."""
        self._method.update_memory(new_keys)

    def moved_by_forward(self) -> Iterator[Tensor]:
        """Yields what the student and the method change in place."""
        yield from (each for each in self.student.buffers() if each.dim() < 2)
        yield from self._method.moved_by_forward()
