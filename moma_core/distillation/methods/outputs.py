"""Methods that need a teacher's answers only: KD, hint, SP, CC, RKD, PKT."""

import torch.nn.functional as F
from torch import Tensor

from moma_core.distillation.losses import SoftTargets
from moma_core.distillation.methods.base import Baseline, Term, adapter
from moma_core.distillation.methods.context import DistillationContext
from moma_core.distillation.methods.losses import (
    correlation_congruence,
    similarity_preserving,
)
from moma_core.distillation.methods.torchdistill_losses import (
    probabilistic_transfer,
    relational,
)
from moma_core.models.encoder import Encoder, Features
from moma_core.teacher.protocol import TeacherOutput


class KnowledgeDistillation(Baseline):
    """KD: the teacher's softened logits, see `SoftTargets`."""

    def __init__(self, student: Encoder, setup: DistillationContext) -> None:
        super().__init__(student, setup, setup.numbers.kd_weight)
        teacher = setup.teacher
        self.soft_targets = SoftTargets(
            student.embedding_length,
            teacher.classes,
            teacher.class_order,
            setup.numbers.kd_temperature,
        )

    def term(
        self, features: Features, answer: TeacherOutput, rows: Tensor | None
    ) -> Term:
        """Compares logits."""
        return Term(self.soft_targets(features, answer))


class Hint(Baseline):
    """FitNet's hint at the embedding; other widths meet through a learned layer.

    Source: Romero et al., section 2.2 (https://arxiv.org/abs/1412.6550).
    """

    def __init__(self, student: Encoder, setup: DistillationContext) -> None:
        super().__init__(student, setup, setup.numbers.hint_weight)
        length = setup.teacher.embedding_length
        self.regressor = adapter(student.embedding_length, length)

    def term(
        self, features: Features, answer: TeacherOutput, rows: Tensor | None
    ) -> Term:
        """Returns the mean squared difference of the embeddings."""
        return Term(F.mse_loss(self.regressor(features.embedding), answer.embedding))


class SimilarityPreserving(Baseline):
    """SP: patches that are similar to the teacher are similar to the student.

    Source: Tung and Mori (https://arxiv.org/abs/1907.09682).
    """

    def __init__(self, student: Encoder, setup: DistillationContext) -> None:
        super().__init__(student, setup, setup.numbers.sp_weight)

    def term(
        self, features: Features, answer: TeacherOutput, rows: Tensor | None
    ) -> Term:
        """Compares similarities within the batch, whatever the widths."""
        return Term(similarity_preserving(features.embedding, answer.embedding))


class CorrelationCongruence(Baseline):
    """CC: other widths meet through a learned layer on the student's side.

    Source: Peng et al. (https://arxiv.org/abs/1904.01802), in the comparison's form.
    """

    def __init__(self, student: Encoder, setup: DistillationContext) -> None:
        super().__init__(student, setup, setup.numbers.cc_weight)
        length = setup.teacher.embedding_length
        self.regressor = adapter(student.embedding_length, length)

    def term(
        self, features: Features, answer: TeacherOutput, rows: Tensor | None
    ) -> Term:
        """Compares differences of rows that stand side by side in the batch."""
        own = self.regressor(features.embedding)
        return Term(correlation_congruence(own, answer.embedding))


class Relational(Baseline):
    """RKD: distances and angles between a batch's embeddings, whatever the widths.

    Source: Park et al. (https://arxiv.org/abs/1904.05068).
    """

    def __init__(self, student: Encoder, setup: DistillationContext) -> None:
        numbers = setup.numbers
        super().__init__(student, setup, numbers.rkd_weight)
        self._between = relational(
            numbers.rkd_distance_weight, numbers.rkd_angle_weight
        )

    def term(
        self, features: Features, answer: TeacherOutput, rows: Tensor | None
    ) -> Term:
        """Compares every pair and every triplet of the batch."""
        return Term(self._between(features.embedding, answer.embedding))


class Probabilistic(Baseline):
    """PKT: who is near to whom, as probabilities, whatever the widths.

    Source: Passalis and Tefas (https://arxiv.org/abs/1803.10837).
    """

    def __init__(self, student: Encoder, setup: DistillationContext) -> None:
        super().__init__(student, setup, setup.numbers.pkt_weight)
        self._between = probabilistic_transfer()

    def term(
        self, features: Features, answer: TeacherOutput, rows: Tensor | None
    ) -> Term:
        """Compares the batch's neighbourhoods."""
        return Term(self._between(features.embedding, answer.embedding))
