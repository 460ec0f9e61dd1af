"""The attacked teachers, and what they say of every patch as it is."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.quality.teachers import Memory, memory_for
from benchmarks.quality.tissue import colon
from benchmarks.quality.training import VIEW_SIZE_PX
from moma_core.data.loader import evaluation_batches
from moma_core.models.backbone import Backbone, Normalise

# Of division, training and students; none of them is in the table of the methods.
SEEDS = (100, 101, 102)
_BATCH = 100


class MessageContext(NamedTuple):
    """Where things are.

    Args:
        data: The colon set.
        work: Where teachers are kept.
    """

    data: Path
    work: Path


class Answers(NamedTuple):
    """What a network says of N patches.

    Args:
        embedding: (N, D).
        logits: (N, C).
        labels: (N,), the truth, which the network did not see.
    """

    embedding: Tensor
    logits: Tensor
    labels: Tensor

    def of(self, rows: Tensor) -> "Answers":
        """Returns those of some rows."""
        return Answers(*(tensor[rows] for tensor in self))


def teacher_memory(place: MessageContext, seed: int) -> Memory:
    """Returns a teacher of nine tissues, trained on 400 patches, with a memory."""
    return memory_for("same", seed, place.data, place.work, maps=False)


@lru_cache(maxsize=len(SEEDS))
def teacher_answers(place: MessageContext, seed: int) -> Answers:
    """Returns what a teacher says of every patch of the set, in its order."""
    return answers_of(teacher_memory(place, seed).encoder, place.data)


@torch.inference_mode()
def answers_of(network: Backbone, data: Path, rows: Tensor | None = None) -> Answers:
    """Returns what a backbone says of plain views; None: of every patch."""
    source = colon(data)
    if rows is None:
        rows = torch.arange(len(source.index.labels))
    normalise = Normalise(network.mean, network.std)
    network.eval()
    found = []
    for views, labels in evaluation_batches(
        source, rows.numpy(), view_size_px=VIEW_SIZE_PX, batch_size=_BATCH
    ):
        features = network(normalise(views))
        found.append((features.embedding, features.logits, labels))
    return Answers(*map(torch.cat, zip(*found, strict=True)))
