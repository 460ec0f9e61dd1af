"""An encoder that classifies with another one's frozen classifier (SimKD)."""

import torch
from torch import Tensor, nn

from moma_core.errors import ConfigError
from moma_core.models.encoder import Encoder, Features


class ProjectedEncoder(Encoder):
    """A body, a projector to a teacher's embeddings, and the teacher's classifier.

    The state dict holds all three: it is used as it was trained, without the teacher.
    The projector works on embeddings, at half the teacher's width within: of its three
    convolutions (1x1, 3x3, 1x1) the middle one is 1x1 here, and nothing follows the
    last normalisation, because embeddings of today's encoders are negative, too.

    Source: Chen et al. (https://arxiv.org/abs/2203.14001).

    Args:
        body: The student; its own classifier is left aside.
        length: Of the teacher's embeddings.
        classes: C, the student's.
    """

    def __init__(self, body: Encoder, length: int, classes: int) -> None:
        super().__init__()
        self.architecture = body.architecture
        self.body = body
        self.body.classifier.requires_grad_(False)
        inner = max(1, length // 2)
        self.projector = nn.Sequential(
            *_layer(body.embedding_length, inner),
            nn.ReLU(),
            *_layer(inner, inner),
            nn.ReLU(),
            *_layer(inner, length),
        )
        self.head = nn.Linear(length, classes).requires_grad_(False)

    @property
    def embedding_length(self) -> int:
        """The teacher's."""
        return self.head.in_features

    @property
    def classifier(self) -> nn.Module:
        """The teacher's, frozen."""
        return self.head

    def forward(self, images: Tensor) -> Features:
        """Returns the projected embedding, and the teacher's classifier's logits."""
        embedding = self.projector(self.body(images).embedding)
        return Features(embedding, self.head(embedding))

    def freeze_stages(self, count: int) -> None:
        """Keeps the body's first stages as they are."""
        self.body.freeze_stages(count)

    @torch.no_grad()
    def take_classifier(self, classifier: nn.Module, class_order: Tensor) -> None:
        """Copies a teacher's classifier, its rows in the student's order of classes.

        Args:
            classifier: Linear.
            class_order: (C,) long, where the student's class c stands in its logits.

        Raises:
            ConfigError: It is not linear.
        """
        if not isinstance(classifier, nn.Linear):
            raise ConfigError("simkd needs a teacher with one linear classifier")
        weights = dict(classifier.named_parameters())
        self.head.weight.copy_(weights["weight"][class_order])
        self.head.bias.zero_()
        if "bias" in weights:
            self.head.bias.copy_(weights["bias"][class_order])


def _layer(width: int, outer: int) -> tuple[nn.Module, nn.Module]:
    return nn.Linear(width, outer, bias=False), nn.BatchNorm1d(outer)
