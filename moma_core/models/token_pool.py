"""A timm encoder with arguments and a pooling of its own, as foundation models are."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from moma_core.errors import ConfigError
from moma_core.models.backbone import Backbone
from moma_core.models.encoder import Features
from moma_core.models.settings import ModelArgs, Pooling

TokenPooling = Callable[[Tensor, int], Tensor]


def _cls(tokens: Tensor, _prefix: int) -> Tensor:
    return tokens[:, 0]


def _mean(tokens: Tensor, prefix: int) -> Tensor:
    return tokens[:, prefix:].mean(dim=1)


def _cls_and_mean(tokens: Tensor, prefix: int) -> Tensor:
    return torch.cat([_cls(tokens, prefix), _mean(tokens, prefix)], dim=1)


TOKEN_POOLINGS: Mapping[Pooling, TokenPooling] = {
    "cls": _cls,
    "mean": _mean,
    "cls+mean": _cls_and_mean,
}
"""From (N, T, D) tokens, of which the first are class and registers, to (N, D)."""


class PooledBackbone(Backbone):
    """A timm model whose embedding is pooled as its makers say.

    Args:
        architecture: A timm name.
        classes: Number of logits, C; 0: it has embeddings alone.
        model_args: What timm's constructor takes beside the name.
        pooling: From tokens to embedding; `head`: as the model does itself. The mean is
            that of the patches, without class token and registers.

    Raises:
        ConfigError: As `Backbone`, or the model has no tokens to pool.
    """

    is_of_architecture = False

    def __init__(
        self,
        architecture: str,
        classes: int,
        model_args: ModelArgs | None = None,
        pooling: Pooling = "head",
    ) -> None:
        uses_head = pooling == "head"
        super().__init__(
            architecture, classes if uses_head else 0, model_args=model_args
        )
        self._pooling = pooling
        self._pool = TOKEN_POOLINGS.get(pooling)
        self.linear: nn.Module | None = None
        if uses_head:
            return
        if not hasattr(self.model, "num_prefix_tokens"):
            raise ConfigError(
                f"pooling {pooling!r} is of tokens, and {architecture!r} has none: "
                "set pooling: head"
            )
        if pooling != "mean" and not self.model.num_prefix_tokens:
            raise ConfigError(
                f"pooling {pooling!r} takes the class token, and {architecture!r} has "
                "none: set pooling: mean"
            )
        self._classes = classes
        if classes:
            self.linear = nn.Linear(self.embedding_length, classes)

    @property
    def classifier(self) -> nn.Module:
        """The layer from embedding to logits."""
        return super().classifier if self.linear is None else self.linear

    @property
    def embedding_length(self) -> int:
        """What the pooling gives."""
        length = int(
            self.model.num_features if self._pool else super().embedding_length
        )
        return 2 * length if self._pooling == "cls+mean" else length

    @property
    def pooling(self) -> str:
        """From tokens to embedding, as the config names it."""
        return super().pooling if self._pool is None else self._pooling

    def forward(self, images: Tensor) -> Features:
        """Returns embedding and logits of (N, 3, H, W) normalised images."""
        if self._pool is None:
            return super().forward(images)
        tokens = self.model.forward_features(images)
        embedding = self._pool(tokens, int(self.model.num_prefix_tokens))
        return Features(embedding, self._logits(embedding))
