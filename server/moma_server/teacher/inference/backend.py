"""Models that give outputs for patches: the interface, a torch module, its copies."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moma_core.errors import ConfigError
from moma_core.models.backbone import Normalise
from moma_core.models.ema import (
    MomentumState,
    MomentumTerms,
    ema_update,
    relative_distance,
    set_batch_norm,
    share_after,
    update_teacher,
)
from moma_core.models.encoder import Encoder, Features
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.query import Pixels

ModelOutput = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Embedding (N, D) and logits (N, C)."""

Model = Callable[[Pixels], ModelOutput]

_PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class TeacherBackend(Protocol):
    """A model behind a card."""

    @property
    def card(self) -> TeacherCard:
        """What the model says of itself."""
        ...

    def predict(self, pixels: Pixels) -> ModelOutput:
        """Returns embedding (N, D) and logits (N, C); one thread calls at a time.

        Args:
            pixels: (N, H, W, 3), uint8 in [0, 255] or float32 in [0, 1].
        """
        ...


class SessionModel:
    """A site's private copy of the teacher's network, moved by EMA updates.

    Used by the model's thread alone.

    Args:
        teacher: The teacher's own network; only read.
        encoder: Copy of it; moves in place.
        predict: Gives the outputs of the copy.
        terms: How the copy moves.
    """

    def __init__(
        self, teacher: Encoder, encoder: Encoder, predict: Model, terms: MomentumTerms
    ) -> None:
        self.encoder = encoder
        self.predict = predict
        self._teacher = teacher
        self._terms = terms

    def distance_to(self, mean: Mapping[str, Tensor]) -> float:
        """Returns how far a site's weights are from the teacher's own, relatively."""
        return relative_distance(self._teacher, mean, self._terms)

    def move_to(self, state: MomentumState) -> None:
        """Puts the copy where single updates would have put it, from the start."""
        ema_update(self.encoder, self._teacher, 0)
        share = share_after(self._terms.decay, state.steps)
        update_teacher(self.encoder, state.mean, self._terms, share)


class TorchBackend:
    """Runs a torch module on one device, in the precision that its card names.

    Args:
        model: Takes normalised images (N, 3, H, W) and returns their features; on
            `device` and in evaluation mode already.
        card: Gives mean, standard deviation and precision.
        device: Where the model is.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Features],
        card: TeacherCard,
        device: torch.device,
    ) -> None:
        if card.precision not in _PRECISIONS:
            raise ValueError(f"precision {card.precision!r} is none of {_PRECISIONS}")
        self._model = model
        self._card = card
        self._device = device
        self._precision = _PRECISIONS[card.precision]
        self._normalise = Normalise(card.mean, card.std).to(device)

    @property
    def card(self) -> TeacherCard:
        """What the model says of itself."""
        return self._card

    @property
    def encoder(self) -> Encoder:
        """The network.

        Raises:
            ConfigError: It is none that EMA updates could move.
        """
        if not isinstance(self._model, Encoder) or not self._model.is_of_architecture:
            raise ConfigError(
                "momentum sessions need a teacher that is an encoder of timm without "
                "arguments of its own, since a student must be the same"
            )
        return self._model

    @property
    def encoder_bytes(self) -> int:
        """Bytes of the network's tensors; raises as `encoder` does."""
        tensors = (*self.encoder.parameters(), *self.encoder.buffers())
        return sum(tensor.nbytes for tensor in tensors)

    def copied(self, terms: MomentumTerms) -> SessionModel:
        """Returns a copy of the network that can move; raises as `encoder` does."""
        network = copy.deepcopy(self.encoder)
        set_batch_norm(network, terms.batch_norm)
        backend = TorchBackend(network, self._card, self._device)
        return SessionModel(self.encoder, network, backend.predict, terms)

    @torch.inference_mode()
    def predict(self, pixels: Pixels) -> ModelOutput:
        """Returns embedding (N, D) and logits (N, C)."""
        with self._autocast():
            features = self._model(self._images(pixels))
        return _to_numpy(features.embedding), _to_numpy(features.logits)

    def _images(self, pixels: Pixels) -> Tensor:
        """Returns (N, 3, H, W), normalised, channels last in memory."""
        on_gpu = self._device.type == "cuda"
        dtype = torch.uint8 if pixels.dtype == np.uint8 else torch.float32
        staged = torch.empty(pixels.shape, dtype=dtype, pin_memory=on_gpu)
        staged.numpy()[...] = pixels
        images = staged.to(self._device, non_blocking=on_gpu).permute(0, 3, 1, 2)
        if dtype == torch.float32:
            images = images * 255  # what Normalise counts in
        normalised: Tensor = self._normalise(images)
        return normalised

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self._device.type,
            dtype=self._precision,
            enabled=self._precision != torch.float32,
        )


def _to_numpy(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[Any] = values.float().cpu().numpy()
    return array
