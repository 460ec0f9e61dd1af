"""From a teacher's files to a model that answers; all of them are checked by digest."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moma_core.errors import ConfigError
from moma_core.models.backbone import Backbone
from moma_core.models.probe import load_probe
from moma_core.models.token_pool import PooledBackbone
from moma_core.models.weights import check_digest, load_weights
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.query import Pixels
from moma_server.config.backend import BackendSection, OipBackend, TimmBackend
from moma_server.config.server import TeacherSection
from moma_server.teacher.inference.arrays import ArrayBackend
from moma_server.teacher.inference.backend import (
    ModelOutput,
    TeacherBackend,
    TorchBackend,
)
from moma_server.teacher.inference.digest import teacher_digest
from moma_server.teacher.inference.files import open_file
from moma_server.teacher.inference.open_inference import (
    OpenInferenceBackend,
    OpenInferenceRunner,
)


class ProbedBackend:
    """A teacher of embeddings with a probe on top, which gives the logits.

    Args:
        backend: Gives the embeddings; its own logits are left out.
        probe: From embedding to logits.
    """

    def __init__(self, backend: TeacherBackend, probe: nn.Module) -> None:
        self._backend = backend
        self._probe = probe

    @property
    def card(self) -> TeacherCard:
        """What the model says of itself."""
        return self._backend.card

    @torch.inference_mode()
    def predict(self, pixels: Pixels) -> ModelOutput:
        """Returns embedding (N, D) and logits (N, C)."""
        embedding, _ = self._backend.predict(pixels)
        logits: NDArray[np.float32] = self._probe(torch.from_numpy(embedding)).numpy()
        return embedding, logits


def checked_card(section: TeacherSection) -> TeacherCard:
    """Returns a teacher's card, if its files have the digest that it says.

    The model is not loaded: a server that runs may fill the device's memory.

    Raises:
        ConfigError: Card, weights and config do not fit each other.
    """
    card = TeacherCard.load(section.card)
    if card.name != section.name:
        raise ConfigError(
            f"the card is of teacher {card.name!r}, the config of {section.name!r}"
        )
    _check_digest(section, card)
    if isinstance(section.backend, OipBackend) and card.golden is None:
        raise ConfigError(
            "a teacher behind a model server needs a reference patch on its card: make "
            "the card with moma-server teacher import"
        )
    return card


def load_backend(section: TeacherSection, card: TeacherCard) -> TeacherBackend:
    """Returns the model that a config names, on its device.

    Args:
        section: Config of the teacher.
        card: Of `checked_card`.

    Raises:
        ConfigError: The weights do not fit the card, or there is no such device.
        MismatchError: Here the weights do not say what the card says to sites.
        TeacherUnavailableError: A model server does not answer.
    """
    if section.threads is not None:
        torch.set_num_threads(section.threads)
    device = device_of(section.accelerator)
    backend = open_backend(
        section.backend, card, section.weights_file, section.head_file, device
    )
    if card.golden is not None:
        pixels = card.golden.pixels(card.input_size_px)
        embedding, logits = backend.predict(pixels[np.newaxis])
        card.golden.check(embedding[0], logits[0])
    return backend


def open_backend(
    section: BackendSection | None,
    card: TeacherCard,
    weights: Path | None,
    head: Path | None,
    device: torch.device,
) -> TeacherBackend:
    """Returns a model with its probe, on a device; its reference patch is not asked.

    Args:
        section: What runs it; None: a teacher of `teacher train`.
        card: Its names, preprocessing and precision.
        weights: Its file; None where a server has it.
        head: File of the probe; None: there is none.
        device: Where it runs.

    Raises:
        ConfigError: The files cannot be read, or do not fit each other.
    """
    classes = 0 if head else len(card.class_names)
    backend = _without_probe(section, card, weights, device, classes)
    if head is None:
        return backend
    probe = load_probe(
        head, length=card.embedding_length, classes=len(card.class_names)
    )
    return ProbedBackend(backend, probe)


def _without_probe(
    section: BackendSection | None,
    card: TeacherCard,
    weights: Path | None,
    device: torch.device,
    classes: int,
) -> TeacherBackend:
    if isinstance(section, OipBackend):
        runner = OpenInferenceRunner(section)
        runner.check_ready()
        return OpenInferenceBackend(section, card, runner)
    if weights is None:
        raise ConfigError("teacher.weights_file is missing")
    if section is None or isinstance(section, TimmBackend):
        model = network_of(section, card.architecture, classes)
        load_weights(model, weights)
        return torch_backend(model, card, device)
    return ArrayBackend(section, card, open_file(section.kind, weights, device))


def network_of(
    section: TimmBackend | None, architecture: str, classes: int
) -> Backbone:
    """Returns a network without its weights.

    Args:
        section: Of the config; None: of `architecture`, as timm has it.
        architecture: A timm name, where there is no section.
        classes: Number of logits.

    Raises:
        ConfigError: timm cannot make it.
    """
    if section is None:
        return Backbone(architecture, classes)
    if not section.model_args and section.pooling == "head":
        return Backbone(section.architecture, classes)
    return PooledBackbone(
        section.architecture, classes, section.model_args, section.pooling
    )


def torch_backend(
    model: Backbone, card: TeacherCard, device: torch.device
) -> TorchBackend:
    """Returns a network that answers on a device, by its card's preprocessing."""
    model.eval().requires_grad_(False)
    model.to(device).to(memory_format=torch.channels_last)
    return TorchBackend(model, card, device)


def _check_digest(section: TeacherSection, card: TeacherCard) -> None:
    weights, head = section.weights_file, section.head_file
    if section.backend is None and head is None and weights is not None:
        check_digest(weights, card.digest)
        return
    found = teacher_digest(card, section.backend, weights, head)
    if found != card.digest:
        raise ConfigError(
            f"the card {section.card} says digest {card.digest}, its files, its "
            f"preprocessing and backend: in the config give {found}: take backend: "
            "from the backend.yaml beside the card, or import the teacher again"
        )


def device_of(accelerator: str) -> torch.device:
    """Returns where a model runs.

    Args:
        accelerator: auto, cpu or cuda.

    Raises:
        ConfigError: It says cuda, and there is no GPU.
    """
    has_gpu = torch.cuda.is_available()
    if accelerator == "cuda" and not has_gpu:
        raise ConfigError("teacher.accelerator is cuda, but there is no GPU")
    use_gpu = has_gpu and accelerator != "cpu"
    return torch.device("cuda" if use_gpu else "cpu")
