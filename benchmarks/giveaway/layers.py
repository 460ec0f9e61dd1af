"""How few moves of a teacher in `momentum` mode reveal a layer of it.

A site in a momentum session chooses the weights s that the teacher's copy moves to,
T' = a T + (1 - a) s each step, and sees what the copy answers. After n steps with one
s, T' = (1 - w) T + w s with w = 1 - a^n. Let s be zero in the attacked layer and
something simple and known in the others: then the copy is the attacked layer, scaled
by 1 - w, between layers that are known up to (1 - w) / (w |s|). Either |s| is large,
and one step is enough, or n is. A deferred sync makes n steps in one message.

The classifier needs none of this: whoever sees embeddings and logits can solve for it.
"""

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.giveaway.teachers import (
    SEEDS,
    MessageContext,
    teacher_answers,
    teacher_memory,
)
from benchmarks.giveaway.tiny import CLASSES, INPUTS, LENGTH, MAPS, TinyEncoder
from benchmarks.giveaway.tiny import tiled_images as _tiled_images
from moma_core.models.ema import (
    MomentumTerms,
    share_after,
    update_teacher,
    updated_weights,
)
from moma_core.models.encoder import Encoder, Features

Layer = Literal["classifier", "hidden", "patches", "lite0 classifier"]

DECAY = 0.999  # as published
ANSWERS = 200
_ORDER = tuple(range(CLASSES))


@dataclass(frozen=True, slots=True)
class LayerTrial:
    """One attack on one layer.

    Args:
        layer: Which.
        answers: That the attacker sees.
        seed: Of the teacher and of the attacker's pictures.
        steps: That the copy moves, n.
        size: Norm of the weights that the attacker sends, over the teacher's own.
    """

    layer: Layer
    answers: int
    seed: int
    steps: int = 0
    size: float = 0.0

    @property
    def key(self) -> str:
        """Names the trial in the results."""
        return f"layer/{self.layer}/{self.answers}/{self.steps}/{self.size}/{self.seed}"


# What the attacker guesses that no unit exceeds, for inputs of size one.
_LIFT = 4.0
_INNER: tuple[Layer, ...] = ("hidden", "patches")
_MOVES = ((1, 1e3), (1, 1e5), (1, 1e7), (1000, 1.0), (3000, 1.0), (5000, 1.0))


def layer_trials() -> Iterator[LayerTrial]:
    """Yields them, seed by seed."""
    for seed in SEEDS:
        for answers in (LENGTH // 2, LENGTH + 1, 2 * LENGTH, 4 * LENGTH):
            yield LayerTrial("classifier", answers, seed)
        for layer in _INNER:
            for steps, size in _MOVES:
                yield LayerTrial(layer, ANSWERS, seed, steps, size)
        yield LayerTrial("lite0 classifier", 0, seed)


class SessionModel:
    """The only way in: the session's copy of a teacher moves, and answers.

    Args:
        teacher: Is only copied.
    """

    def __init__(self, teacher: Encoder) -> None:
        self._copy = deepcopy(teacher).eval().requires_grad_(False)
        self._terms = MomentumTerms(DECAY, class_order=_ORDER)

    def sync(self, weights: Encoder, steps: int) -> None:
        """Moves by a number of steps at once, as one deferred message does."""
        leads = updated_weights(weights, self._terms)
        update_teacher(self._copy, leads, self._terms, share_after(DECAY, steps))

    def ask(self, images: Tensor) -> Features:
        """Answers."""
        found: Features = self._copy(images)
        return found


def run_layer(trial: LayerTrial, place: MessageContext) -> dict[str, object]:
    """Attacks, and holds what came out against the layer as it is."""
    if trial.layer == "lite0 classifier":
        error, answers = _lite0_classifier(place, trial.seed)
    else:
        torch.manual_seed(trial.seed)
        teacher = TinyEncoder()
        own = norm_of(teacher)
        found = recover(SessionModel(teacher), trial, trial.size * own)
        inner = {"hidden": teacher.hidden.weight, "patches": teacher.patches.weight}
        true = inner.get(trial.layer, teacher.fc.weight).detach().flatten(1)
        error, answers = relative_error(found, true), trial.answers
    return {
        "layer": trial.layer,
        "steps": trial.steps,
        "size": trial.size,
        "answers": answers,
        "relative_error": f"{error:.3g}",
    }


def norm_of(encoder: Encoder) -> float:
    """Returns the norm of all weights together."""
    squares = sum(
        float(tensor.detach().square().sum()) for tensor in encoder.parameters()
    )
    return math.sqrt(squares)


def relative_error(found: Tensor, true: Tensor) -> float:
    """Returns the norm of the difference over the norm of the truth."""
    return float((found - true).norm() / true.norm())


def recover(copy: SessionModel, trial: LayerTrial, norm: float) -> Tensor:
    """Returns the weights of a layer, (outputs, inputs), as an attacker finds them.

    Args:
        copy: The session.
        trial: Which layer, from how many answers and steps.
        norm: Of the weights that are sent.
    """
    generator = torch.Generator().manual_seed(trial.seed)
    images, tiles = _tiled_images(trial.answers, generator)
    if trial.layer == "classifier":
        seen = copy.ask(images)
        return linear_map(seen.embedding, seen.logits)[0]
    share = share_after(DECAY, trial.steps)
    chosen, gain = _chosen(trial.layer, norm, share)
    copy.sync(chosen, trial.steps)
    embedding = copy.ask(images).embedding
    if trial.layer == "hidden":
        # The maps are now the first pixels of the tile, times a known number.
        inputs = share * gain * tiles[:, :MAPS].relu()  # (N, MAPS)
        return linear_map(inputs, embedding)[0] / (1 - share)
    # The embedding is now the maps, times a known number.
    return linear_map(tiles, embedding[:, :MAPS])[0] / (1 - share) / (share * gain)


def _chosen(layer: Layer, norm: float, share: float) -> tuple[TinyEncoder, float]:
    """Returns weights that isolate a layer, and what they multiply by.

    The layer's own weights are zero and its biases large enough to keep its units on,
    where ReLU is the identity.

    Args:
        layer: Which.
        norm: Of all that is sent.
        share: Of it in the copy, w.
    """
    chosen = TinyEncoder().requires_grad_(False)
    for tensor in chosen.parameters():
        tensor.zero_()
    if layer == "hidden":
        lift_of_gain = _LIFT * (1 - share)
        gain = norm / (MAPS + LENGTH * lift_of_gain**2) ** 0.5
        chosen.hidden.bias.fill_(lift_of_gain * gain)
        selection = torch.eye(MAPS, INPUTS).view_as(chosen.patches.weight)
        chosen.patches.weight.copy_(gain * selection)
        return chosen, gain
    lift = min(_LIFT * (1 - share) / share, norm / (2 * MAPS) ** 0.5)
    gain = (norm**2 / MAPS - lift**2) ** 0.5
    chosen.patches.bias = nn.Parameter(torch.full((MAPS,), lift), requires_grad=False)
    chosen.hidden.weight.copy_(gain * torch.eye(LENGTH, MAPS))
    return chosen, gain


def linear_map(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Solves outputs = inputs W^T + b by least squares; returns W and b.

    With fewer rows than unknowns it is the smallest solution.
    """
    ones = torch.ones(len(inputs), 1, dtype=torch.float64)
    known = torch.cat([inputs.double(), ones], dim=1)
    solved = torch.linalg.lstsq(known, outputs.double()).solution
    weights, bias = solved[:-1].T, solved[-1]
    return weights.to(outputs.dtype), bias.to(outputs.dtype)


def _lite0_classifier(place: MessageContext, seed: int) -> tuple[float, int]:
    """Solves for the real teacher's classifier from its answers to all patches."""
    answers = teacher_answers(place, seed)
    found, _ = linear_map(answers.embedding, answers.logits)
    classifier = teacher_memory(place, seed).encoder.classifier
    true = next(classifier.parameters()).detach()
    return relative_error(found, true), len(answers.labels)
