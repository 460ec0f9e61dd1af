"""CRD: a patch's two embeddings against those of all other training patches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moma_core.distill.memory_bank import Keys
from moma_core.distill.methods.base import Baseline, Term
from moma_core.distill.methods.context import Setup
from moma_core.distill.methods.crd import ContrastMemory
from moma_core.models.encoder import Encoder, Features
from moma_core.teacher.protocol import TeacherAnswer


class ContrastiveRepresentation(Baseline):
    """CRD; both sides pass a learned layer to one width and unit length.

    With several ranks each sets its own normalisers from its own first batch; the
    checkpoint keeps rank 0's.

    Source: Tian et al. (https://arxiv.org/abs/1910.10699).
    """

    training_rows: Tensor  # (M,), sorted

    def __init__(self, student: Encoder, setup: Setup) -> None:
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
        self, features: Features, answer: TeacherAnswer, rows: Tensor | None
    ) -> Term:
        """Contrasts with the memories as the steps before left them."""
        own = self._places(rows)
        student = F.normalize(self.student_head(features.embedding), dim=1)
        teacher = F.normalize(self.teacher_head(answer.embedding), dim=1)
        places = self.memory.draw(own, self._negatives)
        loss = self.memory(student, teacher, places)
        return Term(loss, Keys(torch.cat([student, teacher], dim=1).detach(), own))

    def absorb(self, new_keys: Keys) -> None:
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
