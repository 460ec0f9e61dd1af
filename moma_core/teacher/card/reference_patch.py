"""The reference patch: one patch, and the outputs that a teacher must have for it.

This known-answer test finds other weights, another preprocessing or another order of
channels than the card describes, for one patch of the budget. It is no proof against a
teacher that means to deceive: that one computes this patch well and others badly.

The tolerance is of the length of the difference over the length of what is expected.
Measured with EfficientNet-Lite0 at 224 and 48 px: batch size, memory format, threads
and library move float32 outputs by up to 1.1e-6, weights cut to the ten bits of a
GPU's TF32 by 1.3e-2, float16 by 3e-3 and bfloat16 by 1.4e-2. Exchanged channels move
them by 0.11 and more, one training step at a rate of 1e-4 by 0.12, another
normalisation by 0.22.
"""

import base64
import binascii
import hashlib
import io
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moma_core.errors import DataError, MismatchError
from moma_core.policy.outputs import OutputPolicy

LARGEST_TOLERANCE = 0.05
"""Beyond it another model could pass."""

LARGEST_PNG_BYTES = 2 * 2**20

_TOLERANCES = {"float32": 0.02}
_TILES = 8  # of one colour, a side
_CHANNELS = 3
_FLOAT32: np.dtype[np.float32] = np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class ReferencePatch:
    """A patch with its expected outputs, in the form in which a card holds them.

    Args:
        embedding: (D,) little-endian float32, base64; empty where the card's outputs
            leave it out.
        logits: (C,) likewise.
        tolerance: Of the difference, relative, at most LARGEST_TOLERANCE.
        seed: Of a synthetic patch, see `synthetic_patch`; no part where there is a PNG.
        png: A patch of the teacher's choice, as PNG in base64; empty: synthetic.
    """

    embedding: str
    logits: str
    tolerance: float
    seed: int = 0
    png: str = ""

    def pixels(self, side_px: int) -> NDArray[np.uint8]:
        """Returns the patch, (side, side, 3).

        Raises:
            DataError: The PNG is damaged or has another side.
        """
        if not self.png:
            return synthetic_patch(self.seed, side_px)
        return _from_png(self.png, side_px)

    def disclosed(self, outputs: OutputPolicy) -> "ReferencePatch":
        """Returns it with outputs as a policy leaves them: a card discloses no more."""
        disclosed = outputs.apply(
            floats_of(self.embedding)[np.newaxis], floats_of(self.logits)[np.newaxis]
        )
        embedding, logits = (_text_of(values[0]) for values in disclosed)
        return replace(self, embedding=embedding, logits=logits)

    def check(
        self, embedding: NDArray[np.float32], logits: NDArray[np.float32]
    ) -> None:
        """Compares outputs with the expected ones.

        Args:
            embedding: (D,).
            logits: (C,).

        Raises:
            MismatchError: It differs; the message names the field.
        """
        for name, found, text in (
            ("embedding", embedding, self.embedding),
            ("logits", logits, self.logits),
        ):
            expected = floats_of(text)
            if not expected.size:  # withheld
                continue
            if found.shape != expected.shape:
                raise MismatchError(
                    f"reference patch, {name}: has {found.size} values, the card's has "
                    f"{expected.size}"
                )
            distance = _distance(found, expected)
            if not distance <= self.tolerance:  # NaN is never so
                raise MismatchError(
                    f"reference patch, {name}: differs by {distance:.2g}, tolerance "
                    f"{self.tolerance:g}; the model is not the one of the card"
                )


def expect(
    embedding: NDArray[np.float32],
    logits: NDArray[np.float32],
    *,
    precision: str,
    png: bytes = b"",
) -> ReferencePatch:
    """Returns the reference patch of a teacher with these outputs.

    Args:
        embedding: (D,), of the patch.
        logits: (C,), of the patch.
        precision: Of the teacher's arithmetic; decides the tolerance.
        png: Of the patch; empty for the synthetic one.
    """
    return ReferencePatch(
        embedding=_text_of(embedding),
        logits=_text_of(logits),
        tolerance=_TOLERANCES.get(precision, LARGEST_TOLERANCE),
        png=base64.b64encode(png).decode("ascii"),
    )


def synthetic_patch(seed: int, side_px: int) -> NDArray[np.uint8]:
    """Returns the same coloured tiles under noise wherever it is made, (side, side, 3).

    Args:
        seed: Not negative.
        side_px: Of the patch.
    """
    tiles = _bytes(f"tiles {seed}", _TILES, _TILES)
    place = np.arange(side_px) * _TILES // side_px
    noise = _bytes(f"noise {seed}", side_px, side_px)
    mixed = (3 * tiles[place][:, place].astype(np.uint16) + noise) // 4
    return mixed.astype(np.uint8)


def floats_of(text: str) -> NDArray[np.float32]:
    """Returns the values of an embedding or of logits, as a card spells them.

    Raises:
        DataError: It spells none.
    """
    try:
        content = base64.b64decode(text, validate=True)
        return np.frombuffer(content, _FLOAT32) if content else np.empty(0, _FLOAT32)
    except (binascii.Error, ValueError):
        raise DataError("the expected outputs are no base64 of float32") from None


def _text_of(values: NDArray[np.float32]) -> str:
    content = np.ascontiguousarray(values, _FLOAT32).tobytes()
    return base64.b64encode(content).decode("ascii")


def _distance(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    difference = float(np.linalg.norm(found.astype(np.float64) - expected))
    length = float(np.linalg.norm(expected.astype(np.float64)))
    if not length:
        return 0.0 if difference == 0 else math.inf
    return difference / length


def _bytes(label: str, height: int, width: int) -> NDArray[np.uint8]:
    stream = hashlib.shake_256(f"moma golden {label}".encode())
    content = stream.digest(height * width * _CHANNELS)
    return np.frombuffer(content, np.uint8).reshape(height, width, _CHANNELS)


def _from_png(text: str, side_px: int) -> NDArray[np.uint8]:
    """Decodes a PNG whose size is known before any pixel is."""
    try:
        content = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.size != (side_px, side_px) or image.mode != "RGB":
                raise DataError(
                    f"a reference patch is {side_px} x {side_px} px in RGB, got "
                    f"{image.width} x {image.height} in {image.mode}"
                )
            return np.asarray(image, np.uint8)
    except DataError:
        raise
    except Exception:  # noqa: BLE001 - the border: Pillow raises anything
        raise DataError("a reference patch is no PNG in base64") from None
