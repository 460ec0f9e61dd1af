"""A loss of your own beside MoMA's: one class, and one line that registers it.

python examples/my_loss.py
"""

import torch.nn.functional as F
from distill import TISSUE, TRAINING, new_network, train_teacher
from torch import Tensor

import moma_core as moma
from moma_core.distillation.methods.base import Baseline, adapter
from moma_core.distillation.methods.context import DistillationContext


class CosineHint(Baseline):
    """The student's embedding shall point where the teacher's does."""

    def __init__(self, student: moma.Encoder, context: DistillationContext) -> None:
        super().__init__(student, context, weight=1.0)
        self.adapter = adapter(student.embedding_length, context.teacher_length)

    def loss(self, features: moma.Features, output: moma.TeacherOutput) -> Tensor:
        """Returns one minus the mean cosine, in [0, 2]."""
        own = self.adapter(features.embedding)  # (N, D)
        return 1 - F.cosine_similarity(own, output.embedding).mean()


moma.register_method("cosine", CosineHint)


def main() -> None:
    """Prints the unseen patches' macro-F1 of a student that learned by it."""
    options = {"training": TRAINING, "epochs": 3, "views": "geometry_only"}
    teacher, source = train_teacher(options), moma.open_source(TISSUE)
    student = moma.distill(
        teacher, source, new_network(source), method="cosine", **options
    )
    print("cosine", moma.evaluate(student, source, "unseen").figures["macro_f1"])


if __name__ == "__main__":
    main()
