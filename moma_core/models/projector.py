"""The head between an embedding and the space of the contrastive loss."""

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
