"""A student that keeps an ImageNet encoder as it is and learns a linear layer on it.

Closed form or convex, so it costs next to nothing and every budget can be tried. It is
one copyist among many, and no bound on what a network trained as a whole would copy.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.giveaway.layers import linear_map
from benchmarks.giveaway.teachers import Answers, MessageContext, answers_of
from benchmarks.quality.teachers import ARCHITECTURE
from benchmarks.quality.tissue import colon
from moma_core.models.backbone import create_backbone
from moma_core.models.settings import ModelSection

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)
_JITTER = 1e-8
_HELD_BACK = 5  # every fifth answer chooses the penalty
_ITERATIONS = 100

Fit = Callable[[Tensor, Tensor, float], Tensor]
"""From kernel, (Q, Q), targets, (Q, T), and penalty to dual weights, (Q, T)."""


@lru_cache(maxsize=1)
def imagenet_features(place: MessageContext) -> Tensor:
    """Returns (N, D) embeddings of every patch by an encoder that saw no tissue."""
    section = ModelSection(architecture=ARCHITECTURE, weights="packaged")
    encoder = create_backbone(section, len(colon(place.data).class_names))
    return answers_of(encoder, place.data).embedding


def linear_student(
    known: Tensor, said: Answers, asked: Tensor, output: str
) -> tuple[Tensor | None, Tensor]:
    """Returns embeddings, if it learned any, and logits of patches it is asked about.

    Args:
        known: (Q, D) features of the patches that the teacher was asked about.
        said: What it said of them; `own labels` uses the truth instead.
        asked: (N, D).
        output: What the student learns from.
    """
    known, asked = _standardised(known, asked)
    if output == "embedding + logits":
        embedding = _predicted(known, said.embedding.double(), asked, ridge)
        weights, bias = linear_map(said.embedding, said.logits)
        return embedding, embedding @ weights.double().T + bias.double()
    classes = said.logits.shape[1]
    if output == "logits":
        targets = said.logits.double().softmax(dim=1)
    else:
        top = said.labels if output == "own labels" else said.logits.argmax(dim=1)
        targets = torch.eye(classes, dtype=torch.float64)[top]
    return None, _predicted(known, targets, asked, softmax_regression)


def _standardised(known: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Adds a constant, so that no fit needs an intercept of its own."""
    mean, deviation = known.double().mean(dim=0), known.double().std(dim=0)
    scale = (deviation + deviation.mean()) * known.shape[1] ** 0.5

    def scaled(features: Tensor) -> Tensor:
        ones = torch.ones(len(features), 1, dtype=torch.float64)
        return torch.cat([(features.double() - mean) / scale, ones], dim=1)

    return scaled(known), scaled(asked)


def _predicted(known: Tensor, targets: Tensor, asked: Tensor, fit: Fit) -> Tensor:
    """Fits with the penalty that serves answers held back best."""
    back = torch.arange(len(known)) % _HELD_BACK == 0

    def cost(penalty: float) -> float:
        dual = fit(known[~back] @ known[~back].T, targets[~back], penalty)
        guess = known[back] @ (known[~back].T @ dual)
        if fit is softmax_regression:
            return -float((targets[back] * guess.log_softmax(dim=1)).sum())
        return float((guess - targets[back]).square().sum())

    dual = fit(known @ known.T, targets, min(PENALTIES, key=cost))
    return asked @ (known.T @ dual)


def ridge(kernel: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """Minimises squares plus a penalty, for numbers."""
    count = len(kernel)
    eye = torch.eye(count, dtype=kernel.dtype)
    dual: Tensor = torch.linalg.solve(kernel + penalty * count * eye, targets)
    return dual


def softmax_regression(kernel: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """Minimises cross-entropy plus a penalty, for probabilities."""
    # Solved in coordinates in which the penalty is a plain norm: it converges faster.
    jitter = _JITTER * torch.eye(len(kernel), dtype=kernel.dtype)
    factor = torch.linalg.cholesky(kernel + jitter)
    weights = torch.zeros_like(targets).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = factor @ weights
        entropy = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
        loss: Tensor = entropy + penalty * weights.square().sum()
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    dual: Tensor
    dual = torch.linalg.solve_triangular(factor.T, weights.detach(), upper=True)
    return dual
