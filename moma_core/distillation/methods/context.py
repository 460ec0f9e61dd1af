"""What a method must know of its teacher and its run before the first step."""

from dataclasses import dataclass

from torch import Tensor

from moma_core.distillation.methods.settings import BaselineSettings
from moma_core.distillation.settings import DistillationSettings
from moma_core.errors import ConfigError
from moma_core.models.encoder import Encoder


@dataclass(frozen=True, slots=True, eq=False)
class TeacherFacts:
    """A teacher, as far as a method needs it to be built.

    Args:
        embedding_length: Of its embeddings.
        classes: Number of its logits.
        class_order: (C,) long, where the student's class c stands in its logits; None
            where the class sets differ.
        encoder: The teacher itself, where its weights are here; only read.
    """

    embedding_length: int
    classes: int
    class_order: Tensor | None
    encoder: Encoder | None = None

    def network(self) -> Encoder:
        """Returns the teacher itself.

        Raises:
            ConfigError: Its weights are not here.
        """
        if self.encoder is None:
            raise ConfigError("this method needs the teacher's weights")
        return self.encoder


@dataclass(frozen=True, slots=True, eq=False)
class RunFacts:
    """A run, as far as a method needs it to be built.

    Args:
        training_rows: (R,) long, the patches' places in their source that batches
            draw from, in any order.
        batch_size: Of one rank, >= that of any batch.
        view_size_px: Side of the square views.
        seed: Of what a method draws.
    """

    training_rows: Tensor
    batch_size: int
    view_size_px: int
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class DistillationContext:
    """All that a method is built from, but for its student.

    Args:
        settings: MoMA's own, and the weights of a step's terms.
        numbers: Of the other methods.
        teacher: Who teaches.
        run: What is trained on.
    """

    settings: DistillationSettings
    numbers: BaselineSettings
    teacher: TeacherFacts
    run: RunFacts
