"""Which patches are of one patient, and so are drawn and held out together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moma_core.data.patch import UNKNOWN_PATIENT, UNKNOWN_SLIDE, PatchIndex
from moma_core.evaluation.statistics import Integers


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which patches belong together, and are drawn together for an interval.

    Args:
        codes: (N,) equal for patches of one group.
        counted: What a group is: `patients`, `slides`, `patches`, or a mixture.
    """

    codes: Integers
    counted: str


def grouping_of(index: PatchIndex, rows: NDArray[np.int64]) -> Grouping:
    """Returns who belongs together: patients, else slides, else nobody.

    Args:
        index: Of all patches.
        rows: (N,) those that were evaluated.
    """
    patients = index.patients[rows].astype(np.int64)
    slides = np.full(len(rows), UNKNOWN_SLIDE, np.int64)
    if index.slides is not None:
        slides = index.slides[rows].astype(np.int64)
    by_patient = patients != UNKNOWN_PATIENT
    by_slide = ~by_patient & (slides != UNKNOWN_SLIDE)
    kind = np.where(by_patient, 0, np.where(by_slide, 1, 2))
    own = np.choose(kind, [patients, slides, rows])
    pairs = np.stack([kind, own], axis=1)
    _, codes = np.unique(pairs, axis=0, return_inverse=True)
    words = [
        word
        for word, is_there in (
            ("patients", by_patient),
            ("slides", by_slide),
            ("patches", kind == 2),
        )
        if is_there.any()
    ]
    return Grouping(codes.reshape(-1), " and ".join(words) or "patches")
