"""Asks a model for a few patches before there is a card of it."""

import numpy as np

from moma_core.errors import ConfigError, TeacherUnavailableError, first_line
from moma_core.teacher.card.reference_patch import synthetic_patch
from moma_core.teacher.query import Pixels
from moma_server.teacher.inference.backend import (
    ModelOutput,
    TeacherBackend,
    TorchBackend,
)

_TRIED_PATCHES = 3
_ALONE_OR_TOGETHER = 1e-2  # a GPU's own arithmetic moves a row by less


def outputs_for(backend: TeacherBackend, pixels: Pixels) -> ModelOutput:
    """Returns embedding and logits of a model that may not take such patches.

    Raises:
        TeacherUnavailableError: It fails; a network of timm raises many kinds.
    """
    try:
        return backend.predict(pixels)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise TeacherUnavailableError(
            f"the network fails for {pixels.shape[1]} px: "
            f"{first_line(error).removesuffix('.')}"
        ) from None


def tried(backend: TeacherBackend) -> ModelOutput:
    """Asks for a few patches, one by one and together, and returns what comes out.

    Raises:
        ConfigError: It fails, gives NaN, or a patch's answer depends on its neighbours.
    """
    side = backend.card.input_size_px
    patches = np.stack([synthetic_patch(seed, side) for seed in range(_TRIED_PATCHES)])
    try:
        alone = [outputs_for(backend, patch[np.newaxis]) for patch in patches]
        together = outputs_for(backend, patches)
    except TeacherUnavailableError as error:
        other = ", or set backend.batch_patches: 1 or what else it takes at a time"
        if isinstance(backend, TorchBackend):
            other = ""
        raise ConfigError(
            f"the model does not serve {_TRIED_PATCHES} patches of {side} px, one by "
            f"one and together: {error}; correct input_size_px{other}"
        ) from None
    for single, whole in zip(zip(*alone, strict=True), together, strict=True):
        rows = np.concatenate(single)
        if not (np.isfinite(rows).all() and np.isfinite(whole).all()):
            raise ConfigError("the model gives NaN or infinity for a patch of noise")
        distance = float(np.linalg.norm(rows - whole))
        if distance > _ALONE_OR_TOGETHER * max(float(np.linalg.norm(rows)), 1e-6):
            raise ConfigError(
                "the model's answer for a patch depends on those beside it in the batch"
                ": set backend.batch_patches: 1, or export it in evaluation mode"
            )
    return together
