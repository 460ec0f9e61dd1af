"""Whether a network's answers tell its training patches from patches it never saw.

An attack gives each patch a score and calls it a member where the score is above a
threshold. Its advantage is the true positive rate less the false positive rate: 0
where it guesses, 1 where it is always right. A threshold that is chosen and measured
on the same patches flatters the attack, so halves are kept apart.

Source: Yeom et al., definition 4 and section 3 (https://arxiv.org/abs/1709.01604).
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moma_core.data.loader import evaluation_batches
from moma_core.data.patch import TRAIN, VALIDATION, PatchSource
from moma_core.errors import StoppedError
from moma_core.models.backbone import Normalise
from moma_core.models.encoder import Encoder

Scores = NDArray[np.float64]

MOST_PATCHES = 1000
FEWEST_PATCHES = 20
_BATCH = 64


@torch.inference_mode()
def membership_advantage(
    network: Encoder,
    normalise: Normalise,
    source: PatchSource,
    view_size_px: int,
    *,
    seed: int,
    stopped: Callable[[], bool],
) -> float | None:
    """Returns the advantage of a threshold on the loss, or None with too few patches.

    Members are the labelled training patches, non-members the validation ones, at
    most `MOST_PATCHES` of each. The attacker knows the labels. Where the two splits
    differ by more than membership (patients, scanners), that counts as well.

    Args:
        network: Trained on the training split; its mode is restored.
        normalise: From uint8 views to what it takes.
        source: Of the patches.
        view_size_px: Side of the views.
        seed: Of the choice of patches and of the halves.
        stopped: Whether the operator asked to stop; looked at before each batch.

    Raises:
        DataError: Patches cannot be read.
        StoppedError: The operator asked for it.
    """
    batches = _batches(source, view_size_px, seed)
    if batches is None:
        return None
    training = network.training
    network.eval()
    members, others = (_scores(network, normalise, b, stopped) for b in batches)
    network.train(training)
    return held_out_advantage(members, others)


def _batches(
    source: PatchSource, view_size_px: int, seed: int
) -> list[Iterator[tuple[Tensor, Tensor]]] | None:
    """Returns those of members and of others, in an order that says nothing."""
    random = np.random.default_rng(seed)
    groups = [
        random.permutation(source.index.rows(split, labelled=True))[:MOST_PATCHES]
        for split in (TRAIN, VALIDATION)
    ]
    if min(map(len, groups)) < FEWEST_PATCHES:
        return None
    return [
        evaluation_batches(source, rows, view_size_px=view_size_px, batch_size=_BATCH)
        for rows in groups
    ]


def _scores(
    network: Encoder,
    normalise: Normalise,
    batches: Iterator[tuple[Tensor, Tensor]],
    stopped: Callable[[], bool],
) -> Scores:
    scores = [np.empty(0)]
    for views, labels in batches:
        if stopped():
            raise StoppedError("stopped while auditing")
        images = normalise(views.to(normalise.scale.device))
        scores.append(loss_scores(network(images).logits.cpu(), labels))
    return np.concatenate(scores)


def loss_scores(logits: Tensor, labels: Tensor) -> Scores:
    """Returns (N,) scores, minus the cross-entropy: a member's is near 0."""
    known = logits.double().log_softmax(dim=1)
    scores: Scores = known.gather(1, labels.unsqueeze(1)).squeeze(1).numpy()
    return scores


def held_out_advantage(members: Scores, others: Scores) -> float:
    """Returns the advantage on every second patch, by a threshold from the rest.

    Args:
        members: (M,) in an order that says nothing.
        others: (N,) likewise.
    """
    threshold = best_threshold(members[::2], others[::2])
    return advantage(members[1::2], others[1::2], threshold)


def best_threshold(members: Scores, others: Scores) -> float:
    """Returns the threshold of the highest advantage; of equals, the lowest."""
    candidates = np.unique(np.concatenate([[-np.inf], members, others]))
    hits = 1 - np.searchsorted(np.sort(members), candidates, "right") / len(members)
    alarms = 1 - np.searchsorted(np.sort(others), candidates, "right") / len(others)
    return float(candidates[np.argmax(hits - alarms)])


def advantage(members: Scores, others: Scores, threshold: float) -> float:
    """Returns the true positive rate less the false positive rate, in [-1, 1]."""
    return float((members > threshold).mean() - (others > threshold).mean())


def area_under_curve(members: Scores, others: Scores) -> float:
    """Returns how often a member's score is above another's; an equal one is half."""
    ranks = np.sort(others)
    below = np.searchsorted(ranks, members, "left")
    up_to = np.searchsorted(ranks, members, "right")
    return float((below + up_to).mean() / (2 * len(others)))
