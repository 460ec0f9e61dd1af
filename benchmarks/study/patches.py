"""Who has which patches: teacher, site, validation, and the unseen centre."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.training import Rows, Share
from benchmarks.study.preset import Study
from moma_core.data.patch import (
    NO_LABEL,
    TRAIN,
    UNKNOWN_PATIENT,
    UNSEEN,
    VALIDATION,
    PatchIndex,
    PatchSource,
)
from moma_core.errors import DataError

_TEACHER, _SITE, _VALIDATION = 0, 1, 2
_SHARES = (0.4, 0.4, 0.2)
_SHARES_OF_TWO = (0.0, 0.5, 0.5)  # of a teacher that somebody else trained


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """Patches of one seed; no patch, and by groups no patient, is in two places.

    Args:
        source: All of the patches.
        teacher: Rows of a teacher that is trained here.
        share: What the site trains on.
        validation: Rows for tuning, of the training centre.
        unseen: Rows of the unseen centre; may be empty.
    """

    source: PatchSource
    teacher: Rows
    share: Share
    validation: Rows
    unseen: Rows


def divide(study: Study, source: PatchSource, seed: int) -> Division:
    """Returns the patches of a seed, the same ones for every method.

    Where the source has a validation split, that is it; else a fifth of the training
    centre, or half where no teacher is trained on it.

    Raises:
        DataError: A part that is made here lacks a class of the site.
    """
    index = source.index
    rows, given = (index.rows(split, labelled=True) for split in (TRAIN, VALIDATION))
    trains = any(plan.kind == "trained" for plan in study.teachers.values())
    shares = _SHARES if trains else _SHARES_OF_TWO
    if len(given):
        shares = (0.5, 0.5, 0.0) if trains else (0.0, 1.0, 0.0)
    parts = _parts(study, index, rows, shares, seed)
    teacher, site, validation = (rows[parts == each] for each in range(3))
    order = np.random.default_rng((seed, 1)).permutation(len(site))
    share = _share(site[order], index.labels, study)
    known = np.unique(index.labels[share.labelled])
    parts_of = [("teacher", teacher)] if trains else []
    if not len(given):
        parts_of.append(("validation", validation))
    for name, part in parts_of:
        if not np.isin(known, index.labels[part]).all():
            raise DataError(
                f"seed {seed}: the {name}'s part lacks a class: write division: "
                f"patches, or have more patients"
            )
    unseen = index.rows(UNSEEN, labelled=True)
    validation = given if len(given) else validation
    return Division(source, teacher, share, validation, unseen)


def groups_of(index: PatchIndex, rows: Rows) -> NDArray[np.int64]:
    """Returns (n,) codes of what is drawn together: patients, else slides, else each.

    Codes start at 0 and are of these rows alone.
    """
    patients = index.patients[rows].astype(np.int64)
    slides = patients if index.slides is None else index.slides[rows].astype(np.int64)
    codes = np.where(patients != UNKNOWN_PATIENT, patients, slides)
    alone = codes < 0
    codes = np.where(alone, codes.max(initial=0) + 1 + np.arange(len(rows)), codes)
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)


def _parts(
    study: Study,
    index: PatchIndex,
    rows: Rows,
    shares: Sequence[float],
    seed: int,
) -> NDArray[np.int64]:
    """Returns (n,) whose each row is; each class is spread as the shares say.

    Group by group, those of the rarest class first, each to whom most is lacking.
    """
    groups = np.arange(len(rows))
    if study.division == "groups":
        groups = groups_of(index, rows)
    labels = index.labels[rows].astype(np.int64)
    sizes = np.bincount(labels)
    members: dict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(groups.tolist()):
        members[group].append(place)
    order = np.random.default_rng(seed).permutation(len(members)).tolist()
    names = [list(members)[place] for place in order]
    names.sort(key=lambda name: min(sizes[labels[members[name]]]))
    wanted = np.outer(shares, sizes).astype(float)  # (3, C), patches that are lacking
    parts = np.empty(len(rows), dtype=np.int64)
    for name in names:
        own = members[name]
        counts = np.bincount(labels[own], minlength=len(sizes))
        rarest = min(np.flatnonzero(counts), key=lambda label: sizes[label])
        lacking = wanted[:, rarest] / np.maximum(1e-9, np.asarray(shares))
        place = int(np.argmax(np.where(np.asarray(shares) > 0, lacking, -np.inf)))
        wanted[place] -= counts
        parts[own] = place
    return parts


def _share(pool: Rows, labels: NDArray[np.int16], study: Study) -> Share:
    """Returns labelled patches, spread over the classes, and the rest without."""
    turns = np.empty(len(pool), dtype=np.int64)
    for label in np.unique(labels[pool]):
        if label != NO_LABEL:
            own = np.flatnonzero(labels[pool] == label)
            turns[own] = np.arange(len(own))
    labelled = pool[np.argsort(turns, kind="stable")[: study.labels]]
    rest = pool[~np.isin(pool, labelled)]
    return Share(labelled, rest[: study.unlabelled])
