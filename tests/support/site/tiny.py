"""A small encoder and small batches, for tests that need no timm."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from moma_core.data.batch import Batch
from moma_core.models.encoder import Encoder, Features


class ConvEncoder(Encoder):
    """One convolution with batch norm, dropout, and a linear classifier."""

    def __init__(self, classes: int = 3, length: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, length, 3, stride=2)
        self.norm = nn.BatchNorm2d(length)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(length, classes)

    @property
    def embedding_length(self) -> int:
        return self.fc.in_features

    @property
    def classifier(self) -> nn.Module:
        return self.fc

    def forward(self, images: Tensor) -> Features:
        maps = self.norm(self.conv(images)).relu()
        embedding = self.drop(maps.mean(dim=(2, 3)))
        return Features(embedding, self.fc(embedding))


class TwoStageEncoder(Encoder):
    """Two convolutions whose maps it shows, and a linear classifier."""

    def __init__(self, classes: int = 3, length: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, length // 2, 3, stride=2)
        self.second = nn.Conv2d(length // 2, length, 3, stride=2)
        self.norm = nn.BatchNorm2d(length)
        self.fc = nn.Linear(length, classes)

    @property
    def embedding_length(self) -> int:
        return self.fc.in_features

    @property
    def classifier(self) -> nn.Module:
        return self.fc

    def forward(self, images: Tensor) -> Features:
        embedding, logits, _ = self.with_maps(images)
        return Features(embedding, logits)

    def with_maps(self, images: Tensor) -> Features:
        first = self.first(images).relu()
        second = self.norm(self.second(first)).relu()
        embedding = second.mean(dim=(2, 3))
        return Features(embedding, self.fc(embedding), (first, second))


def random_batches(count: int, size: int = 6, classes: int = 3) -> Iterator[Batch]:
    """Yields batches that depend on their position alone."""
    for step in range(count):
        generator = torch.Generator().manual_seed(step)
        views = torch.randint(
            0, 256, (size, 3, 12, 12), dtype=torch.uint8, generator=generator
        )
        labels = torch.randint(-1, classes, (size,), generator=generator)
        rows = torch.arange(step * size, (step + 1) * size)
        yield Batch(views, views, labels, step, rows, torch.zeros_like(rows))
