"""Methods that use the teacher's classifier or weights: SimKD, SRRL, FT."""

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from moma_core.distillation.methods.base import Baseline, Term
from moma_core.distillation.methods.context import DistillationContext
from moma_core.distillation.step import Distiller
from moma_core.errors import ConfigError
from moma_core.models.encoder import Encoder, Features
from moma_core.models.reused_classifier import ProjectedEncoder
from moma_core.teacher.protocol import TeacherOutput


class ReusedClassifier(Baseline):
    """SimKD: the student's projected embedding meets the teacher's, and nothing else.

    `student` becomes a `ProjectedEncoder`. As published there is no cross-entropy: no
    label is used.

    Source: Chen et al. (https://arxiv.org/abs/2203.14001).

    Raises:
        ConfigError: The class sets differ.
    """

    def __init__(self, student: Encoder, setup: DistillationContext) -> None:
        numbers, teacher = setup.numbers, setup.teacher
        order = teacher.class_order
        if order is None:
            raise ConfigError("simkd uses the teacher's classifier: other classes")
        whole = ProjectedEncoder(student, teacher.embedding_length, len(order))
        whole.take_classifier(teacher.network().classifier, order)
        super().__init__(whole, setup, numbers.simkd_weight)
        self.settings = self.settings.model_copy(update={"classification_weight": 0.0})

    def term(
        self, features: Features, answer: TeacherOutput, rows: Tensor | None
    ) -> Term:
        """Returns the mean squared difference of the embeddings."""
        return Term(F.mse_loss(features.embedding, answer.embedding))


class SoftmaxRegression(Baseline):
    """SRRL: an adapted embedding says the same to the teacher's classifier.

    The sum of two mean squared differences: of the embeddings, and of what the frozen
    classifier makes of them. The adaptation is left behind after the training.

    Source: Yang et al. (https://openreview.net/forum?id=ZzwDy_wiWv).
    """

    def __init__(self, student: Encoder, setup: DistillationContext) -> None:
        super().__init__(student, setup, setup.numbers.srrl_weight)
        length = setup.teacher.embedding_length
        self.connector = nn.Sequential(
            nn.Linear(student.embedding_length, length, bias=False),
            nn.BatchNorm1d(length),
        )
        theirs = setup.teacher.network().classifier
        self.classifier = copy.deepcopy(theirs).requires_grad_(False)

    def term(
        self, features: Features, answer: TeacherOutput, rows: Tensor | None
    ) -> Term:
        """Compares before and behind the classifier."""
        own = self.connector(features.embedding)
        feature = F.mse_loss(own, answer.embedding)
        target = self.classifier(answer.embedding)
        return Term(feature + F.mse_loss(self.classifier(own), target))


class FineTuning(Distiller):
    """FT: no lesson; the student starts as the teacher and learns from labels.

    The classifier is taken over where the class sets are equal.

    Raises:
        ConfigError: The two have not one architecture.
    """

    def __init__(self, student: Encoder, setup: DistillationContext) -> None:
        super().__init__(student, setup.settings)
        order, own = setup.teacher.class_order, student.state_dict(keep_vars=True)
        weights = setup.teacher.network().state_dict()
        if weights.keys() != own.keys():
            raise ConfigError("ft needs one architecture on both sides")
        last = {id(weight) for weight in student.classifier.parameters()}
        for name, tensor in own.items():
            if id(tensor) in last:
                theirs = weights[name]
                weights[name] = tensor.detach() if order is None else theirs[order]
        try:
            student.load_state_dict(weights)
        except RuntimeError as error:
            raise ConfigError("ft needs one architecture on both sides") from error
