"""A teacher's embeddings of its own patches: the reference of the coverage map."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moma_core.data.loader import evaluation_batches
from moma_core.data.patch import TRAIN, PatchSource
from moma_core.evaluation.metrics import outputs_of
from moma_core.models.encoder import Encoder

MOST_PATCHES = 4000


def reference_embedding(
    network: Encoder,
    normalise: Callable[[Tensor], Tensor],
    source: PatchSource,
    view_size_px: int,
    *,
    seed: int,
    labelled: bool | None = True,
) -> NDArray[np.float32]:
    """Returns (N, D): the embeddings of at most `MOST_PATCHES` training patches.

    Args:
        network: Its mode is restored.
        normalise: From uint8 views to what it takes.
        source: Of the patches.
        view_size_px: Side of the views.
        seed: Of the choice of patches.
        labelled: Whether of the labelled ones, or of the others; None: of both.

    Raises:
        DataError: Patches cannot be read.
    """
    rows = source.index.rows(TRAIN, labelled=labelled)
    chosen = np.random.default_rng(seed).permutation(rows)[:MOST_PATCHES]
    batches = evaluation_batches(source, np.sort(chosen), view_size_px=view_size_px)
    parts = [
        features.embedding.float().cpu().numpy()
        for features, _ in outputs_of(network, normalise, batches)
    ]
    return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)
