"""The head between an embedding and the space of the contrastive loss."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """Two layers and unit length: `l2norm(relu(x w1 + b1) w2 + b2)`.

    Source: MoMA, section 3.2 (https://arxiv.org/abs/2308.16561).

    Args:
        embedding_length: Length of its input, and of its hidden layer.
        feature_length: D, length of a query or key.
    """

    def __init__(self, embedding_length: int, feature_length: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(embedding_length, embedding_length)
        self.output = nn.Linear(embedding_length, feature_length)

    def forward(self, embedding: Tensor) -> Tensor:
        """Returns (N, D) rows of unit length for (N, embedding_length)."""
        return F.normalize(self.output(F.relu(self.hidden(embedding))), dim=1)


class LinearHead(nn.Linear):
    """One layer and unit length."""

    def forward(self, embedding: Tensor) -> Tensor:
        """Returns (N, D) rows of unit length for (N, embedding_length)."""
        return F.normalize(super().forward(embedding), dim=1)


class UnitLength(nn.Module):
    """No layer at all: embeddings as they are, at unit length."""

    def forward(self, embedding: Tensor) -> Tensor:
        """Returns (N, D) rows of unit length for (N, D)."""
        return F.normalize(embedding, dim=1)


def make_head(
    kind: Literal["mlp", "linear", "none"], embedding_length: int, feature_length: int
) -> nn.Module:
    """Returns a head; of kind none it keeps the embedding's length."""
    if kind == "mlp":
        return ProjectionHead(embedding_length, feature_length)
    if kind == "linear":
        return LinearHead(embedding_length, feature_length)
    return UnitLength()
