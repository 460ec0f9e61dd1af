"""The method on one page: one distillation step, from images to losses.

    views -> student -> query
          -> teacher -> key -> attention -> InfoNCE + CE + KL -> backward, optimiser
                                                              -> bank.enqueue

`MomaDistiller.forward` is the upper part; `moma_core.training.loop` calls it, goes
backward, and hands the new keys to the bank.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from moma_core.distill.attention import BatchAttention
from moma_core.distill.losses import info_nce, labelled_cross_entropy, soft_target_loss
from moma_core.distill.memory_bank import MemoryBank
from moma_core.distill.settings import DistillationSettings
from moma_core.models.encoder import Encoder
from moma_core.models.momentum import follow
from moma_core.models.projector import ProjectionHead
from moma_core.teacher.protocol import TeacherAnswer


class StepLosses(NamedTuple):
    """The terms of one step, each a scalar; only `total` is optimised."""

    classification: Tensor
    contrastive: Tensor
    distillation: Tensor
    total: Tensor


class StepOutput(NamedTuple):
    """What one step leaves.

    Args:
        losses: The terms.
        new_keys: (N, D), to be enqueued after the backward pass; (0, D) where the
            step had no teacher.
    """

    losses: StepLosses
    new_keys: Tensor


class MomaDistiller(nn.Module):
    """MoMA: student queries, teacher keys, attention over both, InfoNCE, CE, KL.

    With `teacher_length` None it is the same step without a teacher: cross-entropy
    alone, so that a baseline is trained by the very same code.

    Source: MoMA, section 3 (https://arxiv.org/abs/2308.16561).

    Args:
        student: Its parameters learn.
        settings: Lengths, temperatures, weights.
        teacher_length: Length of the teacher's embeddings, None without a teacher.
        class_order: (C,) long, where the student's class c stands in the teacher's
            logits; None where the class sets differ, and the KL is off.
    """

    class_order: Tensor | None

    def __init__(
        self,
        student: Encoder,
        settings: DistillationSettings,
        teacher_length: int | None,
        class_order: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.student = student
        self.register_buffer("class_order", class_order, persistent=False)
        self.distils = teacher_length is not None
        if teacher_length is None:
            return
        length = settings.feature_length
        same = student.embedding_length == teacher_length
        # Different widths meet on the student's side: the key head follows the
        # query head, so both must have one shape.
        self.adapter = (
            nn.Identity()
            if same
            else nn.Linear(student.embedding_length, teacher_length)
        )
        self.query_head = ProjectionHead(teacher_length, length)
        self.key_head = ProjectionHead(teacher_length, length).requires_grad_(False)
        # As published, three: those of key and queue never learn.
        heads = settings.attention_heads
        self.query_attention = BatchAttention(length, heads)
        self.key_attention = BatchAttention(length, heads).requires_grad_(False)
        self.queue_attention = BatchAttention(length, heads).requires_grad_(False)
        self.bank = MemoryBank(settings.bank_size, length)

    def forward(
        self, images: Tensor, labels: Tensor, answer: TeacherAnswer | None
    ) -> StepOutput:
        """Reads as the paper's figure: query, key, attention, losses.

        Args:
            images: (N, 3, H, W), normalised, the views that the teacher answered.
            labels: (N,), class index, NO_LABEL where a patch has none.
            answer: The teacher's, row by row; None without a teacher.
        """
        embedding, logits = self.student(images)
        classification = labelled_cross_entropy(logits, labels)
        if answer is None or not self.distils:
            none = torch.zeros_like(classification)
            total = self.settings.classification_weight * classification
            return StepOutput(
                StepLosses(classification, none, none, total), embedding.new_empty(0, 0)
            )

        query = self.query_attention(self.query_head(self.adapter(embedding)))
        # Here, and nowhere else, the momentum moves and the gradient stops.
        with torch.no_grad():
            follow(self.key_head, self.query_head, self.settings.momentum)
            key = self.key_head(answer.embedding)
            positive = self.key_attention(key)
            new_keys = self.queue_attention(key)

        contrastive = info_nce(
            query, positive, self.bank.keys, self.settings.temperature
        )
        distillation = self._soft_targets(logits, answer.logits)
        total = (
            self.settings.classification_weight * classification
            + self.settings.contrastive_weight * contrastive
            + self.settings.distillation_weight * distillation
        )
        losses = StepLosses(classification, contrastive, distillation, total)
        return StepOutput(losses, new_keys)

    def _soft_targets(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        if self.class_order is None:
            return torch.zeros_like(logits.sum())
        ordered = teacher_logits[:, self.class_order]
        return soft_target_loss(logits, ordered, self.settings.kl_temperature)
