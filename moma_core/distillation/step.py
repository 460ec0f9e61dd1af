"""The method on one page: one distillation step, from images to losses.

    views -> student -> query
          -> teacher -> key -> attention -> InfoNCE + CE + KL -> backward, optimiser
                                                              -> bank.enqueue

`MomaDistiller.extra_losses` is the upper part; `moma_core.training.trainer` calls the
step, goes backward, and hands the new keys to the bank.
"""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from moma_core.data.patch import NO_LABEL
from moma_core.distillation.attention import make_attentions, nearest_rows
from moma_core.distillation.losses import (
    LabelTerms,
    contrastive_logits,
    head_slices,
    info_nce,
    labelled_cross_entropy,
    relational_loss,
)
from moma_core.distillation.memory_bank import Keys, MemoryBank
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.soft_targets import SoftTargets
from moma_core.distillation.terms.aligned_hint import AlignedHint
from moma_core.distillation.terms.prototypes import prototype_loss
from moma_core.errors import ConfigError
from moma_core.models.ema import ema_update
from moma_core.models.encoder import Encoder, Features
from moma_core.models.heads import make_head
from moma_core.models.micro_batches import forward_in_parts
from moma_core.teacher.protocol import TeacherOutput


class StepLosses(NamedTuple):
    """The terms of one step, each a scalar; only `total` is optimised."""

    classification: Tensor
    contrastive: Tensor
    distillation: Tensor
    total: Tensor


class ExtraLosses(NamedTuple):
    """What a teacher's output adds to a step.

    Args:
        contrastive: A scalar, before its weight.
        distillation: A scalar, before its weight.
        new_keys: For the bank, after the backward pass; None without one.
    """

    contrastive: Tensor
    distillation: Tensor
    new_keys: Keys | None


class StepOutput(NamedTuple):
    """What one step leaves: its losses, and what `update_memory` takes afterwards."""

    losses: StepLosses
    new_keys: Keys | None


class Distiller(nn.Module):
    """One step of any method: cross-entropy, and what the teacher's output adds.

    Here nothing is added: the baseline without a teacher, trained by the very
    same code. A method overrides `extra_losses`.

    Args:
        student: Its parameters learn.
        settings: The weights of the terms.
    """

    distils: ClassVar[bool] = False
    needs_maps: ClassVar[bool] = False

    def __init__(self, student: Encoder, settings: DistillationSettings) -> None:
        super().__init__()
        self.student = student
        self.settings = settings
        self.label_terms = LabelTerms()
        self.micro_batch_size: int | None = None

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        output: TeacherOutput | None,
        rows: Tensor | None = None,
    ) -> StepOutput:
        """Returns a step's losses.

        Args:
            images: (N, 3, H, W), normalised, the views that the teacher saw.
            labels: (N,), class index, NO_LABEL where a patch has none.
            output: The teacher's output, row by row, or that of each of several
                teachers in the order of their distillers; None without a teacher.
            rows: (N,) long, the patches' places in their source.
        """
        features = self._features(images)
        classification = labelled_cross_entropy(
            features.logits, labels, self.label_terms
        )
        none = torch.zeros_like(classification)
        extra = ExtraLosses(none, none, None)
        if output is not None and self.distils:
            extra = self.extra_losses(features, labels, output, rows)
        return self._summed(classification, extra)

    def _summed(self, classification: Tensor, extra: ExtraLosses) -> StepOutput:
        total = (
            self.settings.classification_weight * classification
            + self.settings.contrastive_weight * extra.contrastive
            + self.settings.distillation_weight * extra.distillation
        )
        losses = StepLosses(
            classification, extra.contrastive, extra.distillation, total
        )
        return StepOutput(losses, extra.new_keys)

    def extra_losses(
        self,
        features: Features,
        labels: Tensor,
        output: TeacherOutput,
        rows: Tensor | None,
    ) -> ExtraLosses:
        """Returns what the teacher's output adds; arguments as in `forward`."""
        raise NotImplementedError(f"{type(self).__name__} learns from no teacher")

    def update_memory(self, new_keys: Keys) -> None:
        """Takes a step's new keys, of all ranks, after the backward pass."""
        raise NotImplementedError(f"{type(self).__name__} keeps no keys")

    def moved_by_forward(self) -> Iterator[Tensor]:
        """Yields what a forward pass changes in place, to take such a pass back.

        Buffers, such as a batch norm's statistics, but for the memories, which only
        `update_memory` writes.
        """
        yield from (buffer for buffer in self.buffers() if buffer.dim() < 2)

    def _features(self, images: Tensor) -> Features:
        """Returns the student's outputs, in parts where the memory wants it."""
        student = self.student
        forward = student.with_maps if self.needs_maps else student
        if self.micro_batch_size is None:
            return forward(images)
        return forward_in_parts(student, forward, images, self.micro_batch_size)


class MomaDistiller(Distiller):
    """MoMA: student queries, teacher keys, attention over both, InfoNCE, CE, KL.

    Source: MoMA, section 3 (https://arxiv.org/abs/2308.16561).

    Args:
        student: Its parameters learn.
        settings: Variant, lengths, temperatures, weights.
        teacher_length: Length of the teacher's embedding.
        teacher_classes: Number of the teacher's logits.
        class_order: (C,) long, where the student's class c stands in the teacher's
            logits; None where the class sets differ: `settings.other_classes` stands
            in the KL's place.
    """

    distils = True
    class_order: Tensor | None

    def __init__(
        self,
        student: Encoder,
        settings: DistillationSettings,
        *,
        teacher_length: int,
        teacher_classes: int,
        class_order: Tensor | None = None,
    ) -> None:
        super().__init__(student, settings)
        self.register_buffer("class_order", class_order, persistent=False)
        own, kind = student.embedding_length, settings.head
        self.soft_targets: SoftTargets | None = None
        if class_order is not None or settings.other_classes == "side_head":
            self.soft_targets = SoftTargets(
                own,
                teacher_classes,
                class_order,
                settings.kl_temperature,
                settings.logit_loss,
            )
        self.hint: AlignedHint | None = None
        if settings.hint_weight:
            self.hint = AlignedHint(own, teacher_length, settings.hint_projector)
        length = teacher_length if kind == "none" else settings.feature_length
        # Different widths are adapted on the student's side: the key head is the
        # query head's EMA, so both must have one shape.
        self.adapter = (
            nn.Identity() if own == teacher_length else nn.Linear(own, teacher_length)
        )
        self.query_head = make_head(kind, teacher_length, length)
        self.key_head = make_head(kind, teacher_length, length).requires_grad_(False)
        if settings.key_head_start == "query":
            self.key_head.load_state_dict(self.query_head.state_dict())
        _check_relation_heads(settings.relation_heads, length)
        attentions = make_attentions(settings, length)
        self.query_attention, self.key_attention, self.queue_attention = attentions
        self.bank = MemoryBank(
            settings.bank_size, length, starts_empty=settings.bank_start == "empty"
        )

    def extra_losses(
        self,
        features: Features,
        labels: Tensor,
        output: TeacherOutput,
        rows: Tensor | None,
    ) -> ExtraLosses:
        """Reads as the paper's figure: query, key, attention, losses."""
        # Here, and nowhere else, the EMA is updated and the gradient stops.
        with torch.no_grad():
            ema_update(self.key_head, self.query_head, self.settings.momentum)
            key = self.key_head(output.embedding)
            context = self._neighbours(key)
            positive = self.key_attention(key, context)
            classes = self._known_classes(labels, output.logits)
            new_keys = Keys(self.queue_attention(key, context), classes)
        query = self.query_head(self.adapter(features.embedding))
        query = self.query_attention(query, context)

        contrastive = self._contrast(query, positive, classes)
        distillation = torch.zeros_like(contrastive)
        if self.soft_targets is not None:
            distillation = self.soft_targets(features, output, labels)
        elif self.settings.has_prototypes:
            bank, own = self.bank.negatives(), new_keys.features
            nearest = prototype_loss(features.logits, own, labels, bank)
            distillation = self.settings.prototype_weight * nearest
        if self.hint is not None:
            hint = self.hint(features.embedding, output.embedding)
            contrastive = contrastive + self.settings.hint_weight * hint
        return ExtraLosses(contrastive, distillation, new_keys)

    def update_memory(self, new_keys: Keys) -> None:
        """Puts a step's keys into the bank."""
        self.bank.enqueue(new_keys.features, new_keys.classes)

    def moved_by_forward(self) -> Iterator[Tensor]:
        """Yields the key head as well."""
        yield from super().moved_by_forward()
        yield from self.key_head.parameters()

    def _neighbours(self, key: Tensor) -> Tensor | None:
        """Returns the bank's keys that rows attend to, one set for both sides."""
        held = self.bank.negatives().features
        if self.settings.attention_reach == "batch" or not len(held):
            return None
        return nearest_rows(key, held, self.settings.attention_neighbours)

    def _contrast(self, query: Tensor, key: Tensor, classes: Tensor) -> Tensor:
        negatives = self.bank.negatives()
        own: Tensor | None = None
        if self.settings.bank != "instance":
            known = classes.unsqueeze(1)  # (N, 1)
            own = (known == negatives.classes) & (known != NO_LABEL)  # (N, K)
        heads = self.settings.relation_heads
        keys = head_slices(key, heads)  # (H, N, D / H), as all three
        banks = head_slices(negatives.features, heads)
        terms = [
            self._compared(*slices, own)
            for slices in zip(head_slices(query, heads), keys, banks, strict=True)
        ]
        return terms[0] if heads == 1 else torch.stack(terms).mean()

    def _compared(
        self, query: Tensor, key: Tensor, negatives: Tensor, own: Tensor | None
    ) -> Tensor:
        """Returns the contrast of one head; `own`, (N, K): these are no negatives."""

        def compared(rows: Tensor) -> Tensor:
            temperature = self.settings.temperature
            logits = contrastive_logits(rows, key, negatives, temperature)
            if own is not None:
                # Not -inf: a target of 0 times -inf is NaN.
                lowest = torch.finfo(logits.dtype).min
                logits[:, 1:] = logits[:, 1:].masked_fill(own, lowest)
            return logits

        if self.settings.contrast == "instance":
            return info_nce(compared(query))
        return relational_loss(compared(query), compared(key))

    def _known_classes(self, labels: Tensor, teacher_logits: Tensor) -> Tensor:
        """Returns labels, and the teacher's guess where a patch has none, if it can.

        In a bank of the teacher's own classes it is the teacher's guess everywhere.
        """
        if self.settings.bank == "teacher_masked":
            return teacher_logits.argmax(dim=1)
        if self.class_order is None:
            return labels
        guess = teacher_logits[:, self.class_order].argmax(dim=1)
        return torch.where(labels == NO_LABEL, guess, labels)


def _check_relation_heads(heads: int, length: int) -> None:
    """Refuses heads that do not divide a key."""
    if length % heads:
        raise ConfigError(
            f"distillation.relation_heads is {heads}, which does not divide the "
            f"{length} numbers of a key"
        )
