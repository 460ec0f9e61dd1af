"""Self-attention over a batch: every embedding looks at its neighbours."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from moma_core.distillation.settings import AttentionKind


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
        attended: Tensor = self.proj(mixed.transpose(0, 1).reshape(size, length))
        return attended


class ResidualAttention(BatchAttention):
    """The same beside its input, and back to unit length: a row stays itself."""

    def forward(self, rows: Tensor) -> Tensor:
        """Returns (N, D) rows of unit length for (N, D) of unit length."""
        return F.normalize(rows + super().forward(rows), dim=1)


class Attentions(NamedTuple):
    """What queries, positive keys and the bank's new keys pass through."""

    query: nn.Module
    key: nn.Module
    queue: nn.Module


def make_attentions(kind: AttentionKind, feature_length: int, heads: int) -> Attentions:
    """Returns the three attentions of a variant.

    Args:
        kind: published: three, of which only the query's learns; none: rows as they
            are; shared: one, learned through the queries; shared_residual: one that
            adds to its input and keeps unit length.
        feature_length: D, a multiple of `heads`.
        heads: Number of heads.
    """
    if kind == "none":
        return Attentions(nn.Identity(), nn.Identity(), nn.Identity())
    if kind == "published":
        query, key, queue = (BatchAttention(feature_length, heads) for _ in range(3))
        return Attentions(query, key.requires_grad_(False), queue.requires_grad_(False))
    attention = ResidualAttention if kind == "shared_residual" else BatchAttention
    shared = attention(feature_length, heads)
    return Attentions(shared, shared, shared)
