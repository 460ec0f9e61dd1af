"""From a teacher's files to a model that answers; weights are checked by digest."""

import numpy as np
import torch

from moma_core.errors import ConfigError
from moma_core.models.backbone import Backbone
from moma_core.models.weights import check_digest, load_weights
from moma_core.teacher.card.card import TeacherCard
from moma_server.config.server import TeacherSection
from moma_server.teacher.inference.backend import TorchBackend


def load_backend(section: TeacherSection) -> TorchBackend:
    """Returns the model that a config names, on its device.

    Raises:
        ConfigError: Card, weights and config do not fit each other.
        MismatchError: Here the weights do not say what the card says to sites.
    """
    card = TeacherCard.load(section.card)
    if card.name != section.name:
        raise ConfigError(
            f"the card is of teacher {card.name!r}, the config of {section.name!r}"
        )
    check_digest(section.weights_file, card.digest)
    if section.threads is not None:
        torch.set_num_threads(section.threads)
    device = _device(section)
    model = Backbone(card.architecture, len(card.class_names))
    load_weights(model, section.weights_file)
    model.eval().requires_grad_(False)
    model.to(device).to(memory_format=torch.channels_last)
    backend = TorchBackend(model, card, device)
    if card.golden is not None:
        pixels = card.golden.pixels(card.input_size_px)
        embedding, logits = backend.predict(pixels[np.newaxis])
        card.golden.check(embedding[0], logits[0])
    return backend


def _device(section: TeacherSection) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if section.accelerator == "cuda" and not has_gpu:
        raise ConfigError("teacher.accelerator is cuda, but there is no GPU")
    use_gpu = has_gpu and section.accelerator != "cpu"
    return torch.device("cuda" if use_gpu else "cpu")
