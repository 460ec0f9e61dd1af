"""Methods that need a teacher's outputs only: logits, hints, SP, CC, RKD, PKT."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from moma_core.distillation.methods.base import Baseline, adapter, in_single
from moma_core.distillation.methods.context import DistillationContext
from moma_core.distillation.methods.losses import (
    correlation_congruence,
    similarity_preserving,
)
from moma_core.distillation.methods.settings import BaselineSettings
from moma_core.distillation.methods.torchdistill_losses import (
    probabilistic_transfer,
    relational,
)
from moma_core.distillation.settings import LogitLoss, ProjectorKind
from moma_core.distillation.soft_targets import SoftTargets
from moma_core.distillation.step import ExtraLosses
from moma_core.distillation.terms.aligned_hint import AlignedHint
from moma_core.models.encoder import Encoder, Features
from moma_core.teacher.protocol import TeacherOutput

LogitMethod = Literal["kd", "dist", "dkd", "zkd", "wttm"]


class LogitDistillation(Baseline):
    """One loss between logits, see `SoftTargets`.

    Args:
        student: Its parameters learn.
        context: Settings, teacher and run.
        method: Which one.
    """

    def __init__(
        self, student: Encoder, context: DistillationContext, method: LogitMethod
    ) -> None:
        numbers = _numbers(method, context.baseline_settings)
        loss, weight, temperature = numbers
        super().__init__(student, context, weight)
        self.soft_targets = SoftTargets(
            student.embedding_length,
            context.teacher_classes,
            context.class_order,
            temperature,
            loss,
        )

    def extra_losses(
        self,
        features: Features,
        labels: Tensor,
        output: TeacherOutput,
        rows: Tensor | None,
    ) -> ExtraLosses:
        """Returns the weighted loss; one of them looks at the labels, too."""
        with torch.autocast(features.embedding.device.type, enabled=False):
            loss = self.soft_targets(in_single(features), in_single(output), labels)
        return ExtraLosses(torch.zeros_like(loss), self.weight * loss, None)


def _numbers(
    method: LogitMethod, own: BaselineSettings
) -> tuple[LogitLoss, float, float]:
    """Returns a method's loss, its weight and its temperature."""
    if method == "kd":
        return "kl", own.kd_weight, own.kd_temperature
    if method == "dist":
        return "dist", own.dist_weight, own.dist_temperature
    if method == "dkd":
        return "decoupled", own.dkd_weight, own.dkd_temperature
    if method == "zkd":
        return "standardised", own.zkd_weight, own.zkd_temperature
    return "wttm", own.wttm_weight, own.wttm_temperature


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


class StandardisedHint(Baseline):
    """A hint at the standardised embedding, see `AlignedHint`.

    Args:
        student: Its parameters learn.
        context: Settings, teacher and run.
        projector: orthogonal: VkD's.
    """

    def __init__(
        self, student: Encoder, context: DistillationContext, projector: ProjectorKind
    ) -> None:
        numbers = context.baseline_settings
        weights = {
            "orthogonal": numbers.vkd_weight,
            "linear": numbers.cosine_hint_weight,
        }
        super().__init__(student, context, weights[projector])
        self.hint = AlignedHint(
            student.embedding_length, context.teacher_length, projector
        )

    def loss(self, features: Features, output: TeacherOutput) -> Tensor:
        """Compares directions and values, whatever the widths."""
        loss: Tensor = self.hint(features.embedding, output.embedding)
        return loss


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
