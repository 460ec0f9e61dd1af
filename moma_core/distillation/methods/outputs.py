"""Methods that need a teacher's outputs only: KD, hint, SP, CC, RKD, PKT."""

import torch.nn.functional as F
from torch import Tensor

from moma_core.distillation.losses import SoftTargets
from moma_core.distillation.methods.base import Baseline, adapter
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

    def __init__(self, student: Encoder, context: DistillationContext) -> None:
        super().__init__(student, context, context.baseline_settings.kd_weight)
        self.soft_targets = SoftTargets(
            student.embedding_length,
            context.teacher_classes,
            context.class_order,
            context.baseline_settings.kd_temperature,
        )

    def loss(self, features: Features, output: TeacherOutput) -> Tensor:
        """Compares logits."""
        loss: Tensor = self.soft_targets(features, output)
        return loss


class Hint(Baseline):
    """FitNet's hint at the embedding; other widths are adapted by a learned layer.

    Source: Romero et al., section 2.2 (https://arxiv.org/abs/1412.6550).
    """

    def __init__(self, student: Encoder, context: DistillationContext) -> None:
        super().__init__(student, context, context.baseline_settings.hint_weight)
        length = context.teacher_length
        self.regressor = adapter(student.embedding_length, length)

    def loss(self, features: Features, output: TeacherOutput) -> Tensor:
        """Returns the mean squared difference of the embeddings."""
        return F.mse_loss(self.regressor(features.embedding), output.embedding)


class SimilarityPreserving(Baseline):
    """SP: patches that are similar to the teacher are similar to the student.

    Source: Tung and Mori (https://arxiv.org/abs/1907.09682).
    """

    def __init__(self, student: Encoder, context: DistillationContext) -> None:
        super().__init__(student, context, context.baseline_settings.sp_weight)

    def loss(self, features: Features, output: TeacherOutput) -> Tensor:
        """Compares similarities within the batch, whatever the widths."""
        return similarity_preserving(features.embedding, output.embedding)


class CorrelationCongruence(Baseline):
    """CC: other widths are adapted by a learned layer on the student's side.

    Source: Peng et al. (https://arxiv.org/abs/1904.01802), in the comparison's form.
    """

    def __init__(self, student: Encoder, context: DistillationContext) -> None:
        super().__init__(student, context, context.baseline_settings.cc_weight)
        length = context.teacher_length
        self.regressor = adapter(student.embedding_length, length)

    def loss(self, features: Features, output: TeacherOutput) -> Tensor:
        """Compares differences of rows that stand side by side in the batch."""
        own = self.regressor(features.embedding)
        return correlation_congruence(own, output.embedding)


class Relational(Baseline):
    """RKD: distances and angles between a batch's embeddings, whatever the widths.

    Source: Park et al. (https://arxiv.org/abs/1904.05068).
    """

    def __init__(self, student: Encoder, context: DistillationContext) -> None:
        numbers = context.baseline_settings
        super().__init__(student, context, numbers.rkd_weight)
        self._between = relational(
            numbers.rkd_distance_weight, numbers.rkd_angle_weight
        )

    def loss(self, features: Features, output: TeacherOutput) -> Tensor:
        """Compares every pair and every triplet of the batch."""
        return self._between(features.embedding, output.embedding)


class Probabilistic(Baseline):
    """PKT: who is near to whom, as probabilities, whatever the widths.

    Source: Passalis and Tefas (https://arxiv.org/abs/1803.10837).
    """

    def __init__(self, student: Encoder, context: DistillationContext) -> None:
        super().__init__(student, context, context.baseline_settings.pkt_weight)
        self._between = probabilistic_transfer()

    def loss(self, features: Features, output: TeacherOutput) -> Tensor:
        """Compares the batch's neighbourhoods."""
        return self._between(features.embedding, output.embedding)
