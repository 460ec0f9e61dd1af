"""What a method must know of its teacher and its run before the first step."""

from dataclasses import dataclass

from torch import Tensor

from moma_core.distillation.methods.settings import BaselineSettings
from moma_core.distillation.settings import DistillationSettings
from moma_core.errors import ConfigError
from moma_core.models.encoder import Encoder


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DistillationContext:
    """All that a method is built from, but for its student.

    Args:
        settings: MoMA's own, and the weights of a step's terms.
        baseline_settings: Weights and parameters of the other methods.
        teacher_length: D, the length of the teacher's embeddings.
        teacher_classes: Number of the teacher's logits.
        class_order: (C,) long, where the student's class c stands in the teacher's
            logits; None where the class sets differ.
        teacher: The teacher itself, where its weights are here; only read.
        training_rows: (R,) long, the patches' places in their source that batches
            draw from, in any order.
        batch_size: Of one rank, >= that of any batch.
        view_size_px: Side of the square views.
        seed: Of what a method draws.
    """

    settings: DistillationSettings
    baseline_settings: BaselineSettings
    teacher_length: int
    teacher_classes: int
    class_order: Tensor | None
    teacher: Encoder | None = None
    training_rows: Tensor
    batch_size: int
    view_size_px: int
    seed: int

    def local_teacher(self) -> Encoder:
        """Returns the teacher itself.

        Raises:
            ConfigError: Its weights are not here.
        """
        if self.teacher is None:
            raise ConfigError("this method needs the teacher's weights")
        return self.teacher
