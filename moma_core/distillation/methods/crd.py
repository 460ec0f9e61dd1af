"""CRD's memories: the last embedding of every training patch, on either side."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moma_core.distillation.memory_bank import Keys
from moma_core.distillation.methods.base import Baseline, Term
from moma_core.distillation.methods.context import DistillationContext
from moma_core.distillation.methods.losses import noise_contrast
from moma_core.models.encoder import Encoder, Features
from moma_core.teacher.protocol import TeacherOutput


class ContrastMemory(nn.Module):
    """Two memories, and the contrast of one side with the other's.

    Memories, normalisers and the count of draws are buffers: a resumed run goes on
    with the same negatives.

    Source: Tian et al. (https://arxiv.org/abs/1910.10699).

    Args:
        size: M, number of training patches.
        feature_length: Of a remembered embedding.
        temperature: > 0.
        momentum: What stays of a remembered embedding, in [0, 1].
        seed: Of the draws.
    """

    student: Tensor  # (M, D)
    teacher: Tensor  # (M, D)
    student_normaliser: Tensor  # (), 0 until the first batch sets it
    teacher_normaliser: Tensor
    draws: Tensor  # (), how often negatives were drawn

    def __init__(
        self,
        size: int,
        feature_length: int,
        *,
        temperature: float,
        momentum: float,
        seed: int,
    ) -> None:
        super().__init__()
        self._temperature, self._momentum, self._seed = temperature, momentum, seed
        bound = 1 / math.sqrt(feature_length / 3)
        for side in ("student", "teacher"):
            start = torch.empty(size, feature_length).uniform_(-bound, bound)
            self.register_buffer(side, start)
            self.register_buffer(f"{side}_normaliser", torch.zeros(()))
        self.register_buffer("draws", torch.zeros((), dtype=torch.long))

    def forward(self, student: Tensor, teacher: Tensor, places: Tensor) -> Tensor:
        """Returns the loss, a scalar; the memories stay as they are.

        Args:
            student: (N, D), unit length.
            teacher: (N, D), unit length.
            places: (N, 1 + K) long, rows of the memories, a patch's own first.
        """
        by_student = self._scores(student, self.teacher, places)
        by_teacher = self._scores(teacher, self.student, places)
        by_student = by_student / self._set_once(self.student_normaliser, by_student)
        by_teacher = by_teacher / self._set_once(self.teacher_normaliser, by_teacher)
        size = len(self.student)
        return noise_contrast(by_student, size) + noise_contrast(by_teacher, size)

    @torch.no_grad()
    def remember(self, student: Tensor, teacher: Tensor, own: Tensor) -> None:
        """Moves the memories of the patches at `own`, (N,), towards their (N, D).

        Call it after the backward pass.
        """
        for memory, new in ((self.student, student), (self.teacher, teacher)):
            mixed = memory[own].lerp(new.to(memory), 1 - self._momentum)
            memory[own] = F.normalize(mixed, dim=1)

    def draw(self, own: Tensor, count: int) -> Tensor:
        """Returns (N, 1 + K): each patch's own place, then K drawn ones of any patch.

        A function of the seed and of how often it was asked.

        Args:
            own: (N,) long.
            count: K.
        """
        generator = torch.Generator().manual_seed(
            self._seed * 1_000_003 + int(self.draws)
        )
        self.draws += 1
        shape = (len(own), count)
        drawn = torch.randint(0, len(self.student), shape, generator=generator)
        return torch.cat([own.unsqueeze(1), drawn.to(own.device)], dim=1)

    def _scores(self, features: Tensor, memory: Tensor, places: Tensor) -> Tensor:
        # All of the memory at once: gathering K rows for each patch would copy them.
        similarity = features @ memory.T  # (N, M)
        return (similarity.gather(1, places) / self._temperature).exp()

    @torch.no_grad()
    def _set_once(self, normaliser: Tensor, scores: Tensor) -> Tensor:
        first = scores.mean() * len(self.student)
        # Without asking for its value, which would wait for the GPU.
        normaliser.copy_(torch.where(normaliser > 0, normaliser, first))
        return normaliser.clone()


class ContrastiveRepresentation(Baseline):
    """CRD; both sides pass a learned layer to one width and unit length.

    With several ranks each sets its own normalisers from its own first batch; the
    checkpoint keeps rank 0's.

    Source: Tian et al. (https://arxiv.org/abs/1910.10699).
    """

    training_rows: Tensor  # (M,), sorted

    def __init__(self, student: Encoder, setup: DistillationContext) -> None:
        numbers, run = setup.numbers, setup.run
        super().__init__(student, setup, numbers.crd_weight)
        length = numbers.crd_feature_length
        self.student_head = nn.Linear(student.embedding_length, length)
        self.teacher_head = nn.Linear(setup.teacher.embedding_length, length)
        rows = torch.unique(run.training_rows, sorted=True)
        self.register_buffer("training_rows", rows, persistent=False)
        self.memory = ContrastMemory(
            len(rows),
            length,
            temperature=numbers.crd_temperature,
            momentum=numbers.crd_momentum,
            seed=run.seed,
        )
        self._negatives = numbers.crd_negatives

    def term(
        self, features: Features, answer: TeacherOutput, rows: Tensor | None
    ) -> Term:
        """Contrasts with the memories as the steps before left them."""
        own = self._places(rows)
        student = F.normalize(self.student_head(features.embedding), dim=1)
        teacher = F.normalize(self.teacher_head(answer.embedding), dim=1)
        places = self.memory.draw(own, self._negatives)
        loss = self.memory(student, teacher, places)
        return Term(loss, Keys(torch.cat([student, teacher], dim=1).detach(), own))

    def update_memory(self, new_keys: Keys) -> None:
        """Puts a step's embeddings, student's and teacher's in a row, into place."""
        student, teacher = new_keys.features.chunk(2, dim=1)
        self.memory.remember(student, teacher, new_keys.classes)

    def _places(self, rows: Tensor | None) -> Tensor:
        """Returns where the patches stand in the memories."""
        if rows is None:
            raise ValueError("crd must be told which patches a batch holds")
        places = torch.searchsorted(self.training_rows, rows)
        places = places.clamp(max=len(self.training_rows) - 1)
        if not torch.equal(self.training_rows[places], rows):
            raise ValueError("the batch holds patches that are no training rows")
        return places
