"""Colour deconvolution: how much of each stain a pixel holds.

Light is absorbed along the Beer-Lambert law, so the optical density of a pixel is a
mixture of the stains' own colours, and a 3x3 matrix takes it apart.

Source: Ruifrok and Johnston, Anal Quant Cytol Histol 23:291 (2001).
"""

import numpy as np
from numpy.typing import NDArray

_STAIN_COLOURS = np.array(
    [
        [0.65, 0.70, 0.29],  # haematoxylin
        [0.07, 0.99, 0.11],  # eosin
        [0.27, 0.57, 0.78],  # DAB
    ]
)
DENSITY_FROM_STAINS: NDArray[np.float64] = _STAIN_COLOURS
"""(3, 3): amounts of haematoxylin, eosin and DAB times this are optical density."""

STAINS_FROM_DENSITY: NDArray[np.float64] = np.linalg.inv(_STAIN_COLOURS)
"""(3, 3): optical density of red, green and blue times this are amounts of stain."""

DAB = 2


def stain_amounts(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns haematoxylin, eosin and DAB of each pixel, (H, W, 3), in nats.

    Args:
        pixels: (H, W, 3) uint8, RGB.
    """
    density = -np.log(np.maximum(pixels / 255.0, 1e-6))
    amounts: NDArray[np.float64] = np.maximum(density @ STAINS_FROM_DENSITY, 0)
    return amounts
