"""Views of a patch. A view is a seed: from it the very same pixels come again.

The geometric and the stain part make the view that student and teacher both see. The
photometric part is for the student alone (moma_core/data/augment/photometric.py).
"""

import hashlib
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from moma_core.data.augment.recipe import ViewRecipe
from moma_core.data.augment.stain import DENSITY_FROM_STAINS, STAINS_FROM_DENSITY

_FULL_TURN = 2 * math.pi
_QUARTER_TURN = math.pi / 2
# A view draws all its numbers first, so that switching one part off moves no other.
_GEOMETRY_DRAWS, _STAIN_DRAWS = 5, 6


def view_seed(run_seed: int, row: int, epoch: int) -> int:
    """Returns the seed of a patch's view, in [0, 2**63), the same for ever.

    Args:
        run_seed: Of the training run.
        row: The patch's row in its source.
        epoch: How often the patch was drawn before.
    """
    text = f"{run_seed} {row} {epoch}".encode()
    digest = hashlib.blake2b(text, digest_size=8, person=b"moma view").digest()
    return int.from_bytes(digest, "little") >> 1


def render_view(
    pixels: NDArray[np.uint8], seed: int, recipe: ViewRecipe, size_px: int
) -> Tensor:
    """Replays a view, (3, size_px, size_px) uint8.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        seed: Of `view_seed`.
        recipe: What may be done.
        size_px: Side of the view.
    """
    draws = np.random.default_rng(seed).random(_GEOMETRY_DRAWS + _STAIN_DRAWS)
    image = _reduced(_to_float(pixels), size_px)
    view = _transformed(image, draws[:_GEOMETRY_DRAWS], recipe, size_px)
    if recipe.stain:
        view = _restained(view, draws[_GEOMETRY_DRAWS:], recipe.stain)
    return _to_uint8(view)


def plain_view(pixels: NDArray[np.uint8], size_px: int) -> Tensor:
    """Returns the patch as it is, resized and cut to a square, for evaluation.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        size_px: Side of the view, which is (3, size_px, size_px) uint8.
    """
    image = _to_float(pixels)
    height, width = image.shape[-2:]
    short = min(height, width)
    if short != size_px:
        height, width = (round(side * size_px / short) for side in (height, width))
        image = F.interpolate(
            image, (height, width), mode="bilinear", align_corners=False, antialias=True
        )
    top, left = (height - size_px) // 2, (width - size_px) // 2
    return _to_uint8(image[0, :, top : top + size_px, left : left + size_px])


def _to_float(pixels: NDArray[np.uint8]) -> Tensor:
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(planes).unsqueeze(0)  # (1, 3, H, W)


def _to_uint8(view: Tensor) -> Tensor:
    return view.round_().clamp_(0, 255).to(torch.uint8).contiguous()


def _reduced(image: Tensor, size_px: int) -> Tensor:
    """Averages whole blocks of pixels, so that a small view does not alias."""
    factor = min(image.shape[-2:]) // size_px
    return F.avg_pool2d(image, factor) if factor > 1 else image


def _transformed(
    image: Tensor, draws: NDArray[np.float64], recipe: ViewRecipe, size_px: int
) -> Tensor:
    """Samples a flipped, turned, zoomed and shifted square window, (3, S, S)."""
    flip, turn, zoom, down, right = draws.tolist()
    angle = {
        "none": 0.0,
        "quarter": math.floor(4 * turn) * _QUARTER_TURN,
        "any": turn * _FULL_TURN,
    }[recipe.rotation]
    height, width = image.shape[-2:]
    window = min(height, width) * (1 + recipe.zoom) ** (1 - 2 * zoom)
    mirror = -1.0 if recipe.flips and flip < 0.5 else 1.0
    cos, sin = math.cos(angle) * window, math.sin(angle) * window
    shift = 2 * recipe.shift * window
    # rows: x and y of the input, in [-1, 1] over its width and height
    theta = [
        [mirror * cos / width, -sin / width, (2 * right - 1) * shift / width],
        [mirror * sin / height, cos / height, (2 * down - 1) * shift / height],
    ]
    grid = F.affine_grid(
        torch.tensor([theta], dtype=torch.float32),
        [1, 3, size_px, size_px],
        align_corners=False,
    )
    return F.grid_sample(
        image, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )[0]


def _restained(view: Tensor, draws: NDArray[np.float64], strength: float) -> Tensor:
    """Changes the amount of each stain by a factor and a little offset.

    Source: Tellez et al., IEEE Trans Med Imaging 37:2126 (2018), HED jitter.
    """
    signed = (2 * draws - 1) * strength
    factors, offsets = 1 + signed[:3], 0.2 * signed[3:]
    mixing = STAINS_FROM_DENSITY @ np.diag(factors) @ DENSITY_FROM_STAINS  # (3, 3)
    density = view.clamp_(1, 255).div_(255).log_().neg_().flatten(1)  # (3, S * S)
    changed = torch.addmm(
        torch.from_numpy(offsets @ DENSITY_FROM_STAINS).float().unsqueeze(1),
        torch.from_numpy(mixing.T).float(),
        density,
    )
    return changed.neg_().exp_().mul_(255).view_as(view)
