"""Photometric jitter, for the student's copy of a view alone.

Source: after RandAugment (Cubuk et al., 2020), without its geometric operations: two
operations drawn at random, each with a random magnitude.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_OPERATIONS_PER_VIEW = 2
_STREAM = 1  # other numbers than the view drew from the same seed
_GREY_WEIGHTS = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # ITU-R BT.601


def photometric_jitter(view: Tensor, seed: int, strength: float) -> Tensor:
    """Returns a view of other light and focus, (3, H, W) uint8, fixed by the seed.

    Args:
        view: (3, H, W) uint8; stays as it is.
        seed: The view's own seed will do.
        strength: Largest relative change, in [0, 1]; 0 changes nothing.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be in [0, 1], got {strength}")
    if strength == 0:
        return view
    draws = np.random.default_rng((seed, _STREAM))
    image = view.float()
    chosen = draws.choice(len(_OPERATIONS), _OPERATIONS_PER_VIEW, replace=False)
    for operation in chosen.tolist():
        magnitude = float(draws.uniform(-strength, strength))
        image = _OPERATIONS[operation](image, magnitude).clamp_(0, 255)
    return image.round_().to(torch.uint8)


def _brightness(image: Tensor, magnitude: float) -> Tensor:
    return image * (1 + magnitude)


def _contrast(image: Tensor, magnitude: float) -> Tensor:
    mean = _grey(image).mean()
    return mean + (image - mean) * (1 + magnitude)


def _saturation(image: Tensor, magnitude: float) -> Tensor:
    grey = _grey(image)
    return grey + (image - grey) * (1 + magnitude)


def _hue(image: Tensor, magnitude: float) -> Tensor:
    """Turns colours about the grey axis, by at most a sixth of a turn."""
    angle = magnitude * math.pi / 3
    cos, part = math.cos(angle), (1 - math.cos(angle)) / 3
    off = math.sin(angle) / math.sqrt(3)
    rows = [
        [cos + part, part - off, part + off],
        [part + off, cos + part, part - off],
        [part - off, part + off, cos + part],
    ]
    return (torch.tensor(rows, dtype=image.dtype) @ image.flatten(1)).view_as(image)


def _gamma(image: Tensor, magnitude: float) -> Tensor:
    return (image / 255).pow_(math.exp(magnitude)).mul_(255)


def _sharpness(image: Tensor, magnitude: float) -> Tensor:
    """Adds what a blur takes away; a negative magnitude softens."""
    return image + (image - _blurred(image)) * (2 * magnitude)


def _blur(image: Tensor, magnitude: float) -> Tensor:
    return torch.lerp(image, _blurred(_blurred(image)), min(1.0, 2 * abs(magnitude)))


_Operation = Callable[[Tensor, float], Tensor]
_OPERATIONS: tuple[_Operation, ...] = (
    _brightness,
    _contrast,
    _saturation,
    _hue,
    _gamma,
    _sharpness,
    _blur,
)


def _grey(image: Tensor) -> Tensor:
    return (image * _GREY_WEIGHTS).sum(dim=0, keepdim=True)  # (1, H, W)


def _blurred(image: Tensor) -> Tensor:
    """Averages each pixel with its eight neighbours."""
    padded = F.pad(image.unsqueeze(0), (1, 1, 1, 1), mode="reflect")
    return F.avg_pool2d(padded, kernel_size=3, stride=1)[0]
