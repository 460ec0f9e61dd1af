"""Self-attention over a batch: every embedding looks at its neighbours."""

import torch.nn.functional as F
from torch import Tensor, nn


class BatchAttention(nn.Module):
    """Multi-head self-attention with the N rows of a batch as one sequence.

    No residual and no norm, as published.

    Source: MoMA, section 3.3 (https://arxiv.org/abs/2308.16561).

    Args:
        feature_length: D, a multiple of `heads`.
        heads: Number of heads.

    Raises:
        ValueError: D is no multiple of `heads`.
    """

    def __init__(self, feature_length: int, heads: int) -> None:
        super().__init__()
        if feature_length % heads:
            raise ValueError(f"{feature_length} features do not split in {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(feature_length, 3 * feature_length)
        self.proj = nn.Linear(feature_length, feature_length)

    def forward(self, rows: Tensor) -> Tensor:
        """Returns (N, D) for (N, D); each row a mixture of all of them."""
        size, length = rows.shape
        qkv = self.qkv(rows).view(size, 3, self.heads, length // self.heads)
        query, key, value = qkv.permute(1, 2, 0, 3)  # each (heads, N, D / heads)
        # A batch of one sequence: without it a half-precision kernel refuses.
        mixed = F.scaled_dot_product_attention(
            query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
        ).squeeze(0)
        return self.proj(mixed.transpose(0, 1).reshape(size, length))  # type: ignore[no-any-return]
