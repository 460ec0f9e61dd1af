"""One network follows another by an exponential moving average."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


@torch.no_grad()
def follow(
    follower: nn.Module,
    leader: nn.Module,
    decay: float,
    *,
    except_for: nn.Module | None = None,
) -> None:
    """Moves `follower` to `decay * follower + (1 - decay) * leader`, tensor by tensor.

    Parameters move, and floating-point buffers with them: a batch norm's running
    mean and variance must fit the weights that made them, or the follower collapses.
    Integer buffers (counts of batches) are copied.

    Source: MoCo, eq. 2 (https://arxiv.org/abs/1911.05722).

    Args:
        follower: Moves in place; shapes and names as in `leader`.
        leader: Is only read.
        decay: In [0, 1]; 1 keeps the follower where it is.
        except_for: A part of `follower` that stays, for example its classifier.
    """
    stays = {id(tensor) for tensor in _tensors(except_for)} if except_for else set()
    for own, other in zip(_tensors(follower), _tensors(leader), strict=True):
        if id(own) in stays:
            continue
        if own.is_floating_point():
            own.mul_(decay).add_(other, alpha=1 - decay)
        else:
            own.copy_(other)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
