"""Teachers to be served: real networks without training, and one that does nothing."""

import time

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.service.federation import TEACHER
from moma_core.models.backbone import Backbone
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.query import Pixels
from moma_server.teacher.inference.backend import (
    TeacherBackend,
    TorchBackend,
)

NOTHING = "nothing"
"""A teacher whose answers cost nothing: what is left is the service."""

PACED = "paced"
"""A teacher that takes a time for each patch and leaves the processor to others."""

_PACE_SECONDS = 0.002

_CLASSES = tuple(f"class {number}" for number in range(9))
_LENGTH = 512


class IdleBackend:
    """Answers at once, and what it answers depends on the pixels.

    Args:
        side_px: Of a patch.
        pace_seconds: That it takes for each patch.
    """

    def __init__(self, side_px: int, pace_seconds: float = 0.0) -> None:
        self.card = _card(NOTHING, side_px, _LENGTH)
        self._pace_seconds = pace_seconds

    def predict(
        self, pixels: Pixels
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns some pixels of each patch as its embedding (N, D), logits (N, C)."""
        if self._pace_seconds:
            time.sleep(len(pixels) * self._pace_seconds)
        some = pixels.reshape(len(pixels), -1)[:, :_LENGTH].astype(np.float32)
        return some, some[:, : len(_CLASSES)]


def backend_of(model: str, side_px: int) -> TeacherBackend:
    """Returns a teacher; the same weights in every process.

    Args:
        model: A timm name, `NOTHING` or `PACED`.
        side_px: Of a patch.
    """
    if model in (NOTHING, PACED):
        return IdleBackend(side_px, _PACE_SECONDS if model == PACED else 0.0)
    torch.manual_seed(0)
    network = Backbone(model, len(_CLASSES))
    network.eval().requires_grad_(False)
    network.to(memory_format=torch.channels_last)
    card = _card(model, side_px, network.embedding_length)
    return TorchBackend(network, card, torch.device("cpu"))


def _card(architecture: str, side_px: int, length: int) -> TeacherCard:
    return TeacherCard(
        name=TEACHER,
        digest="0" * 64,
        architecture=architecture,
        embedding_length=length,
        organ="colon",
        task="tissue types",
        class_names=_CLASSES,
        input_size_px=side_px,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        precision="float32",
    )
