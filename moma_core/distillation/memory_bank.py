"""A ring of the most recent keys, the negatives of the contrastive loss."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moma_core.data.patch import NO_LABEL


class Keys(NamedTuple):
    """Keys with the classes of the patches that they are of.

    Args:
        features: (N, D).
        classes: (N,) long, the student's class, NO_LABEL where nobody knows it.
        others: Of further teachers, in their order, where a student has several.
    """

    features: Tensor
    classes: Tensor
    others: tuple["Keys", ...] = ()


class MemoryBank(nn.Module):
    """First-in first-out ring of keys, written in place.

    Keys and cursor are buffers: a resumed run sees the same negatives in the same
    order, and writes where it stopped.

    Source: MoCo, section 3.1 (https://arxiv.org/abs/1911.05722).

    Args:
        size: Number of keys held, K.
        feature_length: Length of one key, D.
        starts_empty: A row counts once it was written; else it starts as a random
            key, as published.
    """

    keys: Tensor  # (K, D)
    classes: Tensor  # (K,)
    cursor: Tensor  # (), the row that the next key overwrites
    held: Tensor  # (), how many rows count

    def __init__(
        self, size: int, feature_length: int, *, starts_empty: bool = False
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a bank of {size} keys holds nothing")
        start = F.normalize(torch.randn(size, feature_length), dim=1)
        self.register_buffer("keys", start)
        self.register_buffer("classes", torch.full((size,), NO_LABEL))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.long))
        self.register_buffer("held", torch.tensor(0 if starts_empty else size))
        self._starts_empty = starts_empty

    def negatives(self) -> Keys:
        """Returns the K keys that count, or fewer; views of the ring."""
        if not self._starts_empty:  # asking for the count would wait for the GPU
            return Keys(self.keys, self.classes)
        held = int(self.held)
        return Keys(self.keys[:held], self.classes[:held])

    @torch.no_grad()
    def enqueue(self, rows: Tensor, classes: Tensor | None = None) -> None:
        """Overwrites the oldest keys with `rows`, (N, D) with N <= K.

        Call it after the backward pass: that still needs the keys that the loss read.

        Args:
            rows: (N, D).
            classes: (N,) long; None where nobody knows them.

        Raises:
            ValueError: N is larger than the bank.
        """
        size, count = len(self.keys), len(rows)
        if count > size:
            raise ValueError(f"{count} keys do not fit a bank of {size}")
        places = (self.cursor + torch.arange(count, device=self.keys.device)) % size
        self.keys[places] = rows.to(self.keys.dtype)
        self.classes[places] = NO_LABEL if classes is None else classes
        self.cursor.copy_((self.cursor + count) % size)
        self.held.copy_((self.held + count).clamp(max=size))
