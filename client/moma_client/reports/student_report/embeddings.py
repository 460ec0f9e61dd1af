"""Where a student puts patches: by class, and by where they come from."""

import logging
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from moma_client.config.site import SiteConfig
from moma_client.student.evaluate import StudentEvaluation
from moma_client.student.files import load_student
from moma_core.data.loader import evaluation_batches
from moma_core.data.patch import (
    SPLITS,
    UNKNOWN_CENTRE,
    UNKNOWN_PATIENT,
    UNKNOWN_SLIDE,
    UNSEEN,
    VALIDATION,
    PatchIndex,
    PatchSource,
)
from moma_core.evaluation.embedding_map import (
    Leak,
    neighbour_share,
    origin_leak,
    principal_components,
)
from moma_core.evaluation.grouping import Grouping, grouping_of
from moma_core.evaluation.metrics import ReadRows, outputs_of
from moma_core.models.backbone import Normalise

_logger = logging.getLogger(__name__)

MOST_PATCHES = 1500  # of a map; more hide each other, and take their time
_MOST_SLIDES = 10  # that have colours of their own
_SEED = 0


class EmbeddingMap(NamedTuple):
    """Embeddings of some patches on two directions.

    Args:
        places: (N, 2).
        shares: Of the variance on either direction.
        labels: (N,) class indices.
        splits: (N,) indices into SPLITS.
        slides: (N,) codes; -1 where nothing is known, or where too many have a colour.
        slides_are: `slides`, `patients`, or empty: neither is known.
        centres: (N,) codes, -1 where none is known; None: fewer than two are.
        leak_of_split: How well the split is told.
        leak_of_slide: How well the slide is.
        leak_of_centre: How well the centre is; None where `centres` is.
        of: How many patches there were to choose from.
    """

    places: NDArray[np.float64]
    shares: tuple[float, float]
    labels: NDArray[np.int64]
    splits: NDArray[np.uint8]
    slides: NDArray[np.int64]
    slides_are: str
    centres: NDArray[np.int64] | None
    leak_of_split: Leak
    leak_of_slide: Leak | None
    leak_of_centre: Leak | None
    of: int


def embedding_map(
    config: SiteConfig, student: StudentEvaluation, source: PatchSource
) -> EmbeddingMap | None:
    """Returns the map of a student; None: there are too few patches for one.

    Args:
        config: Settings of this site.
        student: Whose embeddings.
        source: Of the patches; those of validation and unseen patients are shown.

    Raises:
        DataError: Patches cannot be read.
    """
    index = source.index
    whole = [index.rows(split, labelled=True) for split in (VALIDATION, UNSEEN)]
    chosen = np.random.default_rng(_SEED).permutation(np.concatenate(whole))
    embeddings, rows = _embeddings(student, source, np.sort(chosen[:MOST_PATCHES]))
    if len(rows) < 3 or not np.isfinite(embeddings).all():
        return None
    _logger.info("the map of %s shows %d patches", student.card.method, len(rows))
    labels, splits = index.labels[rows].astype(np.int64), index.splits[rows]
    groups = grouping_of(index, rows)
    slides, slides_are = _slides(index, rows)
    centres = _centres(index, rows)
    places, shares = principal_components(embeddings)
    return EmbeddingMap(
        places=places,
        shares=(float(shares[0]), float(shares[1])),
        labels=labels,
        splits=splits,
        slides=_coloured(slides),
        slides_are=slides_are,
        centres=centres,
        leak_of_split=origin_leak(embeddings, labels, splits.astype(np.int64), groups),
        leak_of_slide=_leak_of_slide(embeddings, labels, slides, slides_are),
        leak_of_centre=_leak_of_centre(embeddings, labels, centres, groups),
        of=len(chosen),
    )


def split_masks(found: EmbeddingMap) -> dict[str, NDArray[np.bool_]]:
    """Returns which patches are of which split, by its name."""
    return {
        split: found.splits == SPLITS.index(split)
        for split in (VALIDATION, UNSEEN)
        if (found.splits == SPLITS.index(split)).any()
    }


def _leak_of_slide(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    slides: NDArray[np.int64],
    slides_are: str,
) -> Leak | None:
    known = slides >= 0
    if not slides_are or not known.any():
        return None
    return neighbour_share(embeddings[known], labels[known], slides[known])


def _leak_of_centre(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    centres: NDArray[np.int64] | None,
    groups: Grouping,
) -> Leak | None:
    if centres is None:
        return None
    known = centres != UNKNOWN_CENTRE
    own = Grouping(groups.codes[known], groups.counted)
    return origin_leak(embeddings[known], labels[known], centres[known], own)


def _embeddings(
    student: StudentEvaluation, source: PatchSource, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns (N, D) embeddings and (N,) the rows that they are of."""
    network, card = load_student(student.folder)
    read = ReadRows(source)
    batches = evaluation_batches(read, rows, view_size_px=card.view_size_px)
    normalise = Normalise(card.mean, card.std)
    found = [
        features.embedding.float().cpu()
        for features, _ in outputs_of(network, normalise, batches)
    ]
    if not found:
        return np.zeros((0, 1), np.float32), np.zeros(0, np.int64)
    return torch.cat(found).numpy(), np.array(read.rows, np.int64)


def _slides(
    index: PatchIndex, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], str]:
    """Returns the slide of each patch, or its patient, and which of both it is."""
    if index.slides is not None and (index.slides[rows] != UNKNOWN_SLIDE).any():
        return index.slides[rows].astype(np.int64), "slides"
    if (index.patients[rows] != UNKNOWN_PATIENT).any():
        return index.patients[rows].astype(np.int64), "patients"
    return np.full(len(rows), -1, np.int64), ""


def _centres(index: PatchIndex, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Returns the centre of each patch; None where fewer than two are named."""
    if index.centres is None:
        return None
    centres = index.centres[rows].astype(np.int64)
    known = np.unique(centres[centres != UNKNOWN_CENTRE])
    return centres if len(known) > 1 else None


def _coloured(slides: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the same, with -1 for all but the slides of most patches."""
    names, counts = np.unique(slides[slides >= 0], return_counts=True)
    largest = names[np.argsort(-counts, kind="stable")[:_MOST_SLIDES]]
    return np.where(np.isin(slides, largest), slides, -1)
