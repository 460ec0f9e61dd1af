"""What the method needs of any encoder, whatever library made it."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


class Features(NamedTuple):
    """An encoder's outputs for N images.

    Args:
        embedding: (N, D), before the classifier.
        logits: (N, C).
        maps: (N, channels, H, W) each, from the first stage to the last; empty where
            nobody needs them.
    """

    embedding: Tensor
    logits: Tensor
    maps: tuple[Tensor, ...] = ()


class Encoder(nn.Module, ABC):
    """A network with one classifier on top of one embedding.

    Attributes:
        architecture: Its name, where it has one; for files and messages.
        view_size_px: Side of the views that it was trained on; 0: unknown.
        is_of_architecture: Whether its name alone says which tensors it has, so that a
            student of this name could move it.
    """

    architecture: str = ""
    view_size_px: int = 0
    is_of_architecture: bool = True

    @property
    @abstractmethod
    def embedding_length(self) -> int:
        """D, the length of one embedding."""

    @property
    @abstractmethod
    def classifier(self) -> nn.Module:
        """The layer from embedding to logits."""

    @property
    def classes(self) -> int:
        """C, the number of logits; 0: it has embeddings alone."""
        return int(getattr(self.classifier, "out_features", 0))

    @abstractmethod
    def forward(self, images: Tensor) -> Features:
        """Returns embedding and logits of (N, 3, H, W) normalised images."""

    def with_maps(self, images: Tensor) -> Features:
        """Returns the same with a feature map a stage; only where an encoder can."""
        raise NotImplementedError(f"{type(self).__name__} shows no feature maps")

    def freeze_stages(self, count: int) -> None:
        """Keeps the first stages as they are; only where an encoder has stages.

        Args:
            count: How many, the stem counted; 0: none.
        """
        if count:
            raise NotImplementedError(f"{type(self).__name__} has no stages to freeze")
