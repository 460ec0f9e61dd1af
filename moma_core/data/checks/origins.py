"""Whose patches they are, and from where: patients and centres, by class and split."""

from collections.abc import Iterator

import numpy as np

from moma_core.data.patch import (
    SPLITS,
    TRAIN,
    UNKNOWN_CENTRE,
    UNKNOWN_PATIENT,
    PatchIndex,
)
from moma_core.runtime.finding import Finding

_FEWEST = 10  # patches of a split: fewer may be one patient's by chance
_MOST = 0.8  # of a split's patches


def look_at_origins(index: PatchIndex) -> Iterator[Finding]:
    """Yields whether patches name patients, and whether their origin is learned.

    Args:
        index: Of the set.
    """
    yield from _patients(index)
    yield from _one_patient(index)
    yield from _centres(index)


def _patients(index: PatchIndex) -> Iterator[Finding]:
    unknown = int((index.patients == UNKNOWN_PATIENT).sum())
    if unknown:
        text = (
            f"{unknown} of {len(index)} patches name no patient: nobody can tell "
            f"whether one is in two splits"
        )
        yield Finding("data", "warning", text)
        return
    each = [
        f"{split} {len(np.unique(index.patients[index.rows(split)]))}"
        for split in SPLITS
    ]
    text = f"patients, none in two splits: {', '.join(each)}"
    yield Finding("data", "ok", text)
    if len(index) > 1 and len(np.unique(index.patients)) == len(index):
        text = (
            f"each of the {len(index)} patches names a patient of its own: if one "
            f"gave several, figures count patches as patients, and nobody can tell "
            f"whether one is in two splits; see what patient_id or "
            f"data.patient_pattern takes for the patient"
        )
        yield Finding("data", "warning", text)


def _one_patient(index: PatchIndex) -> Iterator[Finding]:
    """Yields the splits that are one patient's for the most part."""
    for split in SPLITS:
        patients = index.patients[index.rows(split)]
        known = patients[patients != UNKNOWN_PATIENT]
        if len(patients) < _FEWEST or not len(known):
            continue
        most = int(np.unique(known, return_counts=True)[1].max())
        if most < _MOST * len(patients):
            continue
        harm = (
            "a student learns that patient in the place of the classes"
            if split == TRAIN
            else "its figures say how well that patient is known, and little more"
        )
        text = (
            f"{most} of {len(patients)} {split} patches are of one patient: {harm}; "
            f"add patients, or take fewer patches of this one"
        )
        yield Finding("data", "warning", text)


def _centres(index: PatchIndex) -> Iterator[Finding]:
    """Yields whether the centre tells the class of what is trained on.

    Where one class at least comes from two centres, a student cannot go by them alone.
    """
    rows = index.rows(TRAIN, labelled=True)
    if index.centres is None or (index.centres[rows] == UNKNOWN_CENTRE).any():
        return
    pairs = np.unique(np.stack([index.labels[rows], index.centres[rows]]), axis=1)
    labels, centres = len(np.unique(pairs[0])), len(np.unique(pairs[1]))
    if centres < 2 or pairs.shape[1] != labels:
        return
    text = (
        f"each of the {labels} classes is from one centre alone, of {centres}: a "
        f"student may learn the scanner and the stain in the place of tissue; train on "
        f"patches of each class from each centre, or of one centre"
    )
    yield Finding("classes", "warning", text)
