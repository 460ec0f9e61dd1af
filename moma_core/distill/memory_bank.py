"""A ring of the most recent keys, the negatives of the contrastive loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MemoryBank(nn.Module):
    """First-in first-out ring of keys, written in place.

    Keys and cursor are buffers: a resumed run sees the same negatives in the same
    order, and writes where it stopped.

    Source: MoCo, section 3.1 (https://arxiv.org/abs/1911.05722).

    Args:
        size: Number of keys held, K.
        feature_length: Length of one key, D.
    """

    keys: Tensor  # (K, D)
    cursor: Tensor  # (), the row that the next key overwrites

    def __init__(self, size: int, feature_length: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a bank of {size} keys holds nothing")
        start = F.normalize(torch.randn(size, feature_length), dim=1)
        self.register_buffer("keys", start)
        self.register_buffer("cursor", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, rows: Tensor) -> None:
        """Overwrites the oldest keys with `rows`, (N, D) with N <= K.

        Call it after the backward pass: that still needs the keys that the loss read.

        Raises:
            ValueError: N is larger than the bank.
        """
        size = len(self.keys)
        if len(rows) > size:
            raise ValueError(f"{len(rows)} keys do not fit a bank of {size}")
        places = (self.cursor + torch.arange(len(rows), device=rows.device)) % size
        self.keys[places] = rows.to(self.keys.dtype)
        self.cursor.copy_((self.cursor + len(rows)) % size)
