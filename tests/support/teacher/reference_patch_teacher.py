"""A teacher on the disk with terms and a reference patch on its card."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from moma_core.models.backbone import Backbone, Normalise
from moma_core.models.weights import load_weights
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.licence import Licence
from moma_core.teacher.card.reference_patch import expect, synthetic_patch
from tests.support.site.tiny_site import write_teacher


def write_golden_teacher(
    folder: Path, *, seed: int = 0, licence: Licence | None = None
) -> TeacherCard:
    """Writes a teacher of random weights, and a card with all that a card can hold."""
    torch.manual_seed(seed)
    card = write_teacher(folder)
    network = Backbone(card.architecture, len(card.class_names)).eval()
    load_weights(network, folder / "weights.safetensors")
    pixels = synthetic_patch(0, card.input_size_px)[np.newaxis].copy()
    views = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.inference_mode():
        said = network(Normalise(card.mean, card.std)(views))
    golden = expect(
        said.embedding[0].numpy(), said.logits[0].numpy(), precision="float32"
    )
    card = replace(card, licence=licence, golden=golden)
    card.save(folder / "card.json")
    return card
