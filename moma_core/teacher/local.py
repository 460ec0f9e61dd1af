"""Teachers whose weights lie on the site's own disk (`teacher.mode: local`).

Frozen, or moving with the student as published. The published schedule asks for
logits before the teacher moves and for embeddings after it, two passes a step;
`single_pass` takes both after the move.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from moma_core.data.batch import Batch
from moma_core.errors import ConfigError, MismatchError
from moma_core.models.backbone import Backbone, Normalise
from moma_core.models.ema import (
    MomentumTerms,
    move,
    set_batch_norm,
    updated_weights,
)
from moma_core.models.encoder import Encoder
from moma_core.models.settings import Schedule
from moma_core.models.weights import file_digest, load_weights
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.protocol import TeacherOutput

Prepare = Callable[[Tensor], Tensor]


class AbsentTeacher:
    """No teacher: what a baseline trains with."""

    def answer_batches(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, None]]:
        """Answers nothing."""
        for batch in batches:
            yield batch, None


class FrozenTeacher:
    """A teacher that never moves.

    Args:
        encoder: Its weights; set to evaluation mode.
        prepare: From (N, 3, H, W) uint8 views to what the encoder takes.
        class_names: Of its logits, in their order; empty: nobody knows.
        maps: Whether it shows its feature maps with each output.
    """

    def __init__(
        self,
        encoder: Encoder,
        prepare: Prepare,
        *,
        class_names: tuple[str, ...] = (),
        maps: bool = False,
    ) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.class_names = class_names
        self.maps = maps
        self._prepare = prepare

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "FrozenTeacher":
        """Reads a teacher's folder: `card.json` and `weights.safetensors`.

        `moma-server teacher train` and `teacher export` write such a folder. Whose
        signature the card has is not looked at.

        Raises:
            ConfigError: Card and weights cannot be read, or do not fit each other.
            MismatchError: The architecture is not as the card says.
        """
        card = TeacherCard.load(Path(folder) / "card.json")
        network = load_network(card, Path(folder) / "weights.safetensors")
        normalise = Normalise(card.mean, card.std)
        return cls(network, normalise, class_names=card.class_names)

    @classmethod
    def of(cls, network: Backbone, class_names: tuple[str, ...]) -> "FrozenTeacher":
        """Makes a teacher of a network that was trained here, such as a student."""
        return cls(
            network, Normalise(network.mean, network.std), class_names=class_names
        )

    def to(self, device: torch.device) -> Self:
        """Moves the weights, and where views are prepared, to a device."""
        self.encoder.to(device)
        if isinstance(self._prepare, nn.Module):
            self._prepare.to(device)
        return self

    @torch.no_grad()
    def answer_batches(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, TeacherOutput]]:
        """Answers each batch when the loop asks for it."""
        for batch in batches:
            images = self._prepare(batch.views)
            look = self.encoder.with_maps if self.maps else self.encoder
            yield batch, TeacherOutput(*look(images))


class MomentumTeacher:
    """A private copy that follows the student by its EMA: the published teacher.

    Args:
        encoder: Same architecture as the student.
        student: Leads; only read.
        prepare: From (N, 3, H, W) uint8 views to what the encoder takes.
        terms: How it moves.
        schedule: When it moves within a step.
        class_names: Of its logits, in their order; empty: nobody knows.
    """

    def __init__(
        self,
        encoder: Encoder,
        student: Encoder,
        prepare: Prepare,
        terms: MomentumTerms,
        schedule: Schedule,
        class_names: tuple[str, ...] = (),
    ) -> None:
        self.encoder = encoder.requires_grad_(False)
        self.class_names = class_names
        set_batch_norm(encoder, terms.batch_norm)
        self._student = student
        self._prepare = prepare
        self._terms = terms
        self._schedule = schedule

    def to(self, device: torch.device) -> Self:
        """Moves the weights, and where views are prepared, to a device."""
        self.encoder.to(device)
        if isinstance(self._prepare, nn.Module):
            self._prepare.to(device)
        return self

    def answer_batches(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, TeacherOutput]]:
        """Moves and answers once a batch, not before the loop asks for it."""
        for batch in batches:
            yield batch, self._answer(self._prepare(batch.views))

    @torch.no_grad()
    def _answer(self, images: Tensor) -> TeacherOutput:
        if self._schedule == "published":
            before = self.encoder(images).logits
            self._move()
            return TeacherOutput(self.encoder(images).embedding, before)
        self._move()
        after = self.encoder(images)
        return TeacherOutput(after.embedding, after.logits)

    def _move(self) -> None:
        student = updated_weights(self._student, self._terms)
        move(self.encoder, student, self._terms, 1 - self._terms.decay)


def load_network(card: TeacherCard, weights: Path) -> Backbone:
    """Returns the network of a card.

    Args:
        card: A teacher's.
        weights: Its weights, a safetensors file.

    Raises:
        ConfigError: The weights cannot be read, or are not those of the card.
        MismatchError: The architecture is not as the card says.
    """
    check_weights(card, weights)
    network = Backbone(card.architecture, len(card.class_names))
    if network.embedding_length != card.embedding_length:
        raise MismatchError(
            f"embedding_length: {card.architecture} has {network.embedding_length}, "
            f"the card of {card.name} says {card.embedding_length}"
        )
    load_weights(network, weights)
    network.view_size_px = card.input_size_px
    return network


def check_weights(card: TeacherCard, weights: Path) -> None:
    """Refuses a file whose digest is not the card's.

    Raises:
        ConfigError: It is not, or the file cannot be read.
    """
    try:
        digest = file_digest(weights)
    except OSError as error:
        raise ConfigError(f"cannot read weights {weights}: {error}") from error
    if digest != card.digest:
        raise ConfigError(f"{weights} has digest {digest}, its card says {card.digest}")
