"""The embedded set: real tissue that a package registry delivers, for smoke tests.

scikit-image ships one 512x512 picture of colonic glands (FHL2 immunohistochemistry,
DAB with haematoxylin). It is cut into 64 blocks of 64 px; each block belongs to one
part of one institution, so that no pixel is in two splits or with two institutions.
Inside a block, patches of 32 px overlap by half. The four classes are the share of
DAB-positive pixels, in thresholds chosen once so that the classes are about equal.

It shows that all parts of the service work together, and claims nothing more: it is
one picture, the labels are computed from colour, and blocks of different splits touch.
"""

import numpy as np
from numpy.typing import NDArray

from moma_core.data.augment.stain import DAB, stain_amounts
from moma_core.data.patch import (
    SPLITS,
    TRAIN,
    UNKNOWN_PATIENT,
    UNSEEN,
    VALIDATION,
    Patch,
    PatchIndex,
)
from moma_core.errors import ConfigError, DataError

PARTS = ("teacher", "site-a", "site-b")
CLASS_NAMES = ("negative", "weak", "moderate", "strong")
PATCH_SIZE_PX = 32
STRIDE_PX = 16
BLOCK_SIZE_PX = 64

POSITIVE_DAB = 1.0  # nats of optical density
CLASS_BOUNDS = (0.02, 0.40, 0.70)  # shares of positive pixels

# T, A, B train with the teacher, site-a and site-b; t, a, b validate; U is unseen
_BLOCKS = (
    "BBTaTbAT",
    "UTtBTBUB",
    "TbABtbTA",
    "TtABUTUA",
    "TAbBUbBT",
    "aBTaAaBA",
    "TAUTAUTA",
    "TatUTABt",
)
_LETTERS = {"teacher": ("T", "t"), "site-a": ("A", "a"), "site-b": ("B", "b")}


class EmbeddedSource:
    """The patches of one institution, and the unseen ones that all share.

    Args:
        part: One of PARTS.

    Raises:
        ConfigError: The part is unknown, or scikit-image is not installed.
        DataError: scikit-image's picture is not the one we know.
    """

    class_names = CLASS_NAMES

    def __init__(self, part: str) -> None:
        if part not in PARTS:
            raise ConfigError(f"the embedded set has no part {part!r}, only {PARTS}")
        self._picture = _picture()
        train, validation = _LETTERS[part]
        corners, splits = [], []
        for letter, split in ((train, TRAIN), (validation, VALIDATION), ("U", UNSEEN)):
            found = _corners(letter)
            corners += found
            splits += [SPLITS.index(split)] * len(found)
        self.corners: tuple[tuple[int, int], ...] = tuple(corners)
        self.index = PatchIndex(
            labels=self._labels(),
            splits=np.array(splits, dtype=np.uint8),
            patients=np.full(len(corners), UNKNOWN_PATIENT, dtype=np.int32),
        )

    def read(self, row: int) -> Patch:
        """Cuts one patch out of the picture."""
        top, left = self.corners[row]
        cut = self._picture[top : top + PATCH_SIZE_PX, left : left + PATCH_SIZE_PX]
        return Patch(
            pixels=cut.copy(),
            label=int(self.index.labels[row]),
            patient=None,
            slide=None,
            resolution_mpp=None,
        )

    def _labels(self) -> NDArray[np.int16]:
        positive = stain_amounts(self._picture)[..., DAB] > POSITIVE_DAB
        shares = [
            positive[top : top + PATCH_SIZE_PX, left : left + PATCH_SIZE_PX].mean()
            for top, left in self.corners
        ]
        labels: NDArray[np.int16] = np.digitize(shares, CLASS_BOUNDS).astype(np.int16)
        return labels


def _corners(letter: str) -> list[tuple[int, int]]:
    """Returns the top left corners of all patches in a letter's blocks."""
    steps = range(0, BLOCK_SIZE_PX - PATCH_SIZE_PX + 1, STRIDE_PX)
    return [
        (y * BLOCK_SIZE_PX + down, x * BLOCK_SIZE_PX + right)
        for y, blocks in enumerate(_BLOCKS)
        for x, block in enumerate(blocks)
        if block == letter
        for down in steps
        for right in steps
    ]


def _picture() -> NDArray[np.uint8]:
    try:
        from skimage.data import immunohistochemistry  # only the demo needs it
    except ImportError:
        message = (
            "the embedded set needs scikit-image: pip install 'moma-service[demo]'"
        )
        raise ConfigError(message) from None
    picture: NDArray[np.uint8] = immunohistochemistry()
    side = BLOCK_SIZE_PX * len(_BLOCKS)
    if picture.shape != (side, side, 3) or picture.dtype != np.uint8:
        raise DataError(f"scikit-image's picture has shape {picture.shape}")
    return picture
