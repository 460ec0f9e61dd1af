"""Whether outputs give away which patches a network was trained on.

An attack gives each patch a score and calls it a member where the score is above a
threshold. Its advantage is the true positive rate less the false positive rate: 0
where it guesses, 1 where it is always right. A threshold that is chosen and measured
on the same patches flatters the attack, so halves are kept apart.

Source: Yeom et al., definition 4 and section 3 (https://arxiv.org/abs/1709.01604).
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moma_core.data.loader import evaluation_batches
from moma_core.data.patch import TRAIN, VALIDATION, PatchSource
from moma_core.evaluation.metrics import outputs_of, until_stopped
from moma_core.models.encoder import Encoder

Scores = NDArray[np.float64]

MOST_PATCHES = 1000
FEWEST_PATCHES = 20


def membership_advantage(
    network: Encoder,
    normalise: Callable[[Tensor], Tensor],
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
    groups = _groups(source, seed)
    if min(map(len, groups)) < FEWEST_PATCHES:
        return None
    members, others = (
        _scores(network, normalise, until_stopped(batches, stopped))
        for batches in (
            evaluation_batches(source, rows, view_size_px=view_size_px)
            for rows in groups
        )
    )
    return held_out_advantage(members, others)


def _groups(source: PatchSource, seed: int) -> list[NDArray[np.int64]]:
    """Returns rows of members and of others, in an order that says nothing."""
    random = np.random.default_rng(seed)
    return [
        random.permutation(source.index.rows(split, labelled=True))[:MOST_PATCHES]
        for split in (TRAIN, VALIDATION)
    ]


def _scores(
    network: Encoder,
    normalise: Callable[[Tensor], Tensor],
    batches: Iterator[tuple[Tensor, Tensor]],
) -> Scores:
    return np.concatenate(
        [
            np.empty(0),
            *(
                loss_scores(features.logits.cpu(), labels)
                for features, labels in outputs_of(network, normalise, batches)
            ),
        ]
    )


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
