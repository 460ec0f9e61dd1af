"""Stain normalisation: every patch in the colours of one target (torchstain).

Augmentation changes colours at random (moma_core/data/augment/stain.py); this takes
differences between scanners and laboratories away. A student that was trained with it
needs the same of every patch that it is shown, so its card holds the target.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from moma_core.config import ConfigPath, Section
from moma_core.data.images import decode_rgb
from moma_core.data.patch import Patch, PatchSource, WrappedSource
from moma_core.errors import ConfigError, DataError

Method = Literal["macenko", "reinhard"]

_LEAST_STAINED = 0.02  # share of a patch; with less there is no stain to measure
_LEAST_DENSITY, _LEAST_SPREAD = 0.15, 0.02  # optical densities


class StainNormalisationSection(Section):
    """In which colours the student sees patches."""

    method: Method = Field(
        description="macenko, by haematoxylin and eosin; or reinhard, by mean and "
        "deviation of the colours."
    )
    target: ConfigPath | None = Field(
        default=None,
        description="Picture of a patch whose colours all get; null: torchstain's "
        "reference, with macenko alone.",
    )


@dataclass(frozen=True, slots=True)
class StainTarget:
    """The colours that patches get, as they stand on a student's card.

    Args:
        method: "macenko" or "reinhard".
        first: macenko: optical density of both stains, (3, 2) row by row; reinhard:
            mean of the three channels of Lab.
        second: macenko: 99th percentile of the amount of each stain; reinhard: standard
            deviation of the three channels.
    """

    method: Method
    first: tuple[float, ...]
    second: tuple[float, ...]


def stain_target(section: StainNormalisationSection) -> StainTarget:
    """Measures the target of a config.

    Raises:
        ConfigError: torchstain is missing, or reinhard has no target.
        DataError: The target is no picture, or holds no stained tissue.
    """
    tool = _tool(section.method)
    if section.target is None:
        if section.method == "reinhard":
            raise ConfigError(
                "data.stain_normalisation.target: reinhard needs a picture"
            )
    else:
        pixels = decode_rgb(section.target)
        if not _has_stain(pixels):
            raise DataError(
                f"data.stain_normalisation.target {section.target} shows no stained "
                f"tissue: name another patch"
            )
        tool.fit(pixels)
    if section.method == "macenko":
        first, second = tool.HERef, tool.maxCRef
    else:
        first, second = tool.target_means, tool.target_stds
    return StainTarget(
        section.method, *(tuple(map(float, n.ravel())) for n in (first, second))
    )


class StainNormaliser:
    """Gives patches the colours of a target; it travels to other processes.

    Args:
        target: Of the student's card, or of `stain_target`.

    Raises:
        ConfigError: torchstain is missing, or the target's numbers are not as many.
    """

    def __init__(self, target: StainTarget) -> None:
        self._tool = _tool(target.method)
        first, second = np.array(target.first), np.array(target.second)
        if (len(first), len(second)) != (
            (6, 2) if target.method == "macenko" else (3, 3)
        ):
            raise ConfigError("the stain target of the student's card is damaged")
        if target.method == "macenko":
            self._tool.HERef, self._tool.maxCRef = first.reshape(3, 2), second
        else:
            self._tool.target_means, self._tool.target_stds = first, second
        self._is_macenko = target.method == "macenko"

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns a patch in the target's colours, (H, W, 3) uint8.

        A patch without stained tissue, such as glass, comes back as it is.
        """
        if not _has_stain(pixels):
            return pixels
        with np.errstate(all="ignore"):
            try:
                changed = (
                    self._tool.normalize(pixels, stains=False)[0]
                    if self._is_macenko
                    else self._tool.normalize(pixels)
                )
            except np.linalg.LinAlgError:
                return pixels
        result: NDArray[np.uint8] = changed
        return result


class StainNormalisedSource(WrappedSource):
    """A source whose patches have the colours of one target.

    Args:
        source: Where the patches come from.
        target: Colours that they get.
    """

    def __init__(self, source: PatchSource, target: StainTarget) -> None:
        super().__init__(source)
        self._normaliser = StainNormaliser(target)

    def read(self, row: int) -> Patch:
        """Reads one patch and changes its colours."""
        patch = self._source.read(row)
        return replace(patch, pixels=self._normaliser(patch.pixels))


def before_normalisation(source: PatchSource) -> PatchSource:
    """Returns what a source reads before colours are changed; else itself."""
    reader = source
    while not isinstance(reader, StainNormalisedSource):
        if not isinstance(reader, WrappedSource):
            return source
        reader = reader.wrapped
    return reader.wrapped


def _has_stain(pixels: NDArray[np.uint8]) -> bool:
    """Whether there is something to measure: tissue, and of more than one colour."""
    density = -np.log((pixels.reshape(-1, 3).astype(np.float32) + 1) / 240)
    stained = density[(density > _LEAST_DENSITY).all(axis=1)]
    if len(stained) < _LEAST_STAINED * len(density) or len(stained) < 16:
        return False
    return bool(stained.std(axis=0).max() > _LEAST_SPREAD)


def _tool(method: Method) -> Any:  # noqa: ANN401  # torchstain has no types
    try:
        from torchstain.numpy import normalizers
    except ImportError:
        raise ConfigError(
            "stain normalisation needs torchstain: pip install 'moma-service[slides]'"
        ) from None
    if method == "macenko":
        return normalizers.NumpyMacenkoNormalizer()
    return normalizers.NumpyReinhardNormalizer()
