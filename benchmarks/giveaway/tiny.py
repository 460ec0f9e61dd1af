"""A tiny encoder of three layers, which is attacked from outside."""

import torch
from torch import Tensor, nn

from moma_core.models.encoder import Encoder, Features

INPUTS, MAPS, LENGTH, CLASSES = 27, 12, 16, 9
_SIDE_PX = 12


class TinyEncoder(Encoder):
    """Patches of 3 x 3 pixels to maps, their mean to an embedding, and a classifier."""

    architecture = "tiny"

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, MAPS, kernel_size=3, stride=3)
        self.hidden = nn.Linear(MAPS, LENGTH)
        self.fc = nn.Linear(LENGTH, CLASSES)

    @property
    def embedding_length(self) -> int:
        """The width of the last hidden layer."""
        return LENGTH

    @property
    def classifier(self) -> nn.Module:
        """The last layer."""
        return self.fc

    def forward(self, images: Tensor) -> Features:
        """Returns embedding and logits of (N, 3, 12, 12) normalised images."""
        maps = self.patches(images).relu()
        embedding = self.hidden(maps.mean(dim=(2, 3))).relu()
        return Features(embedding, self.fc(embedding))


def tiled_images(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns images of one tile repeated, and the tiles, as an attacker draws them.

    Each of the patches of 3 x 3 pixels then holds the same numbers, from -2 to 2 after
    normalisation, which any picture may.

    Returns:
        Images, (N, 3, 12, 12), and tiles, (N, 27), in the order of a kernel's weights.
    """
    tiles = 4 * torch.rand(count, 3, 3, 3, generator=generator) - 2
    times = _SIDE_PX // 3
    return tiles.repeat(1, 1, times, times), tiles.flatten(1)
