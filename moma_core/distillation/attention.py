"""Self-attention over a batch: every embedding looks at its neighbours."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moma_core.distillation.settings import DistillationSettings, ScaleKind

_EPS = 1e-12


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

    def forward(self, rows: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns (N, D) for (N, D); each row a mixture of what it attends to.

        Args:
            rows: (N, D), what attends; also what is attended to.
            context: (M, D), further rows to attend to; None: there are none.
        """
        size, length = rows.shape
        tokens = rows if context is None else torch.cat([rows, context])
        qkv = self.qkv(tokens).view(len(tokens), 3, self.heads, length // self.heads)
        query, key, value = qkv.permute(1, 2, 0, 3)  # each (heads, N + M, D / heads)
        # A batch of one sequence: without it a half-precision kernel refuses.
        mixed = F.scaled_dot_product_attention(
            query[:, :size].unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
        ).squeeze(0)
        attended: Tensor = self.proj(mixed.transpose(0, 1).reshape(size, length))
        return attended


class ResidualAttention(BatchAttention):
    """The same beside its input, and back to unit length: a row stays itself."""

    def forward(self, rows: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns (N, D) rows of unit length for (N, D) of unit length."""
        return F.normalize(rows + super().forward(rows, context), dim=1)


class GatedAttention(BatchAttention):
    """The same with a learned weight that starts at 0: at first it does nothing.

    Source: ReZero (https://arxiv.org/abs/2003.04887) for one weight, LayerScale
    (https://arxiv.org/abs/2103.17239) for one a channel, there from a small number.

    Args:
        feature_length: D, a multiple of `heads`.
        heads: Number of heads.
        scale: One weight, or one a channel.
    """

    def __init__(
        self, feature_length: int, heads: int, scale: ScaleKind = "scalar"
    ) -> None:
        super().__init__(feature_length, heads)
        shape = () if scale == "scalar" else (feature_length,)
        self.scale = nn.Parameter(torch.zeros(shape))

    def forward(self, rows: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns (N, D) rows of the length that they had, for (N, D) of unit length.

        With a weight of 0 these are the very same numbers: a row is brought back to its
        own length, which rounding has made no more than nearly 1.
        """
        mixed = rows + self.scale * super().forward(rows, context)
        own = rows.detach().norm(dim=1, keepdim=True)
        found: Tensor = mixed * (own / mixed.norm(dim=1, keepdim=True).clamp_min(_EPS))
        return found


class NoAttention(nn.Module):
    """Rows as they are."""

    def forward(self, rows: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the rows."""
        return rows


class Attentions(NamedTuple):
    """What queries, positive keys and the bank's new keys pass through."""

    query: nn.Module
    key: nn.Module
    queue: nn.Module


def make_attentions(settings: DistillationSettings, feature_length: int) -> Attentions:
    """Returns the three attentions of a variant.

    published: three, of which only the query's learns. none: rows as they are. Else
    queries, keys and the bank's new keys share one, which learns through the queries:
    shared, shared_residual beside its input, gated with a weight that starts at 0.

    Args:
        settings: Kind, heads and scale.
        feature_length: D, a multiple of the heads.
    """
    kind, heads = settings.attention, settings.attention_heads
    if kind == "none":
        nothing = NoAttention()
        return Attentions(nothing, nothing, nothing)
    if kind == "published":
        query, key, queue = (BatchAttention(feature_length, heads) for _ in range(3))
        return Attentions(query, key.requires_grad_(False), queue.requires_grad_(False))
    shared: BatchAttention
    if kind == "gated":
        shared = GatedAttention(feature_length, heads, settings.attention_scale)
    else:
        attention = ResidualAttention if kind == "shared_residual" else BatchAttention
        shared = attention(feature_length, heads)
    return Attentions(shared, shared, shared)


def nearest_rows(rows: Tensor, others: Tensor, count: int) -> Tensor:
    """Returns (M, D): of `others` those that are nearest to any of the rows.

    Args:
        rows: (N, D) of unit length.
        others: (K, D) of unit length.
        count: At most so many, M.
    """
    nearness = (rows @ others.T).amax(dim=0)  # (K,)
    return others[nearness.topk(min(count, len(others))).indices]
