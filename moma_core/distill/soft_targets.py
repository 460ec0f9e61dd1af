"""What a teacher's logits teach: over equal classes, or through a side head."""

from torch import Tensor, nn

from moma_core.distill.losses import soft_target_loss
from moma_core.models.encoder import Features
from moma_core.teacher.protocol import TeacherAnswer


class SoftTargets(nn.Module):
    """Hinton's loss against a teacher of the same classes, or of others.

    Published for equal class sets. Where they differ this is our extension: a linear
    layer of its own over the teacher's classes, on the student's embedding, learns
    the teacher's logits with the same loss, and is left behind after the training.

    Source: Hinton et al., section 2 (https://arxiv.org/abs/1503.02531).

    Args:
        embedding_length: The student's.
        teacher_classes: C', number of the teacher's logits.
        class_order: (C,) long, where the student's class c stands in the teacher's
            logits; None where the class sets differ.
        temperature: T > 0.
    """

    class_order: Tensor | None

    def __init__(
        self,
        embedding_length: int,
        teacher_classes: int,
        class_order: Tensor | None,
        temperature: float,
    ) -> None:
        super().__init__()
        self._temperature = temperature
        self.register_buffer("class_order", class_order, persistent=False)
        self.side_head: nn.Module | None = None
        if class_order is None:
            self.side_head = nn.Linear(embedding_length, teacher_classes)

    def forward(self, features: Features, answer: TeacherAnswer) -> Tensor:
        """Returns the mean loss in nats, a scalar."""
        if self.side_head is not None:
            own, other = self.side_head(features.embedding), answer.logits
        else:
            own, other = features.logits, answer.logits[:, self.class_order]
        return soft_target_loss(own, other, self._temperature)
