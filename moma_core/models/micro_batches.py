"""A forward pass in parts, for a batch that a GPU's memory does not hold at once."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from moma_core.models.encoder import Features


def forward_in_parts(
    network: nn.Module,
    forward: Callable[[Tensor], Features],
    images: Tensor,
    size: int,
) -> Features:
    """Returns a network's outputs for a whole batch, holding one part at a time.

    No part keeps what its backward pass needs: that pass computes each part again, with
    the same dropout. So a loss sees all rows, and its gradient is the whole batch's, as
    long as the network treats rows apart. A batch norm does not: it normalises by its
    own part, and its running statistics move once a part.

    Source: Gao et al., section 3.2 (https://arxiv.org/abs/2101.06983); the two passes
    are torch's activation checkpointing.

    Args:
        network: Whose batch norms must count no part twice.
        forward: Of this network.
        images: (N, 3, H, W).
        size: Rows of a part at most; N and more: one pass as ever.
    """
    if size >= len(images):
        return forward(images)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _without_statistics(network)

    outputs: list[Features] = [
        checkpoint(forward, part, use_reentrant=False, context_fn=contexts)
        for part in images.tensor_split(math.ceil(len(images) / size))
    ]
    maps = zip(*(output.maps for output in outputs), strict=True)
    return Features(
        torch.cat([output.embedding for output in outputs]),
        torch.cat([output.logits for output in outputs]),
        tuple(map(torch.cat, maps)),
    )


@contextmanager
def _without_statistics(network: nn.Module) -> Iterator[None]:
    """Has batch norms write their running statistics to copies that nobody keeps.

    The buffers are replaced and not written back: the backward pass that runs around
    this may hold them, and would find them changed.
    """
    kept = [
        (part, name, buffer)
        for part in network.modules()
        if isinstance(part, _BatchNorm) and part.training
        for name, buffer in part.named_buffers(recurse=False)
    ]
    for part, name, buffer in kept:
        setattr(part, name, buffer.clone())
    try:
        yield
    finally:
        for part, name, buffer in kept:
            setattr(part, name, buffer)
