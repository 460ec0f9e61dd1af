"""The patches of a trial: who teaches on which, who learns from which, by seed."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.training import Rows, Share
from moma_core.data.augment.recipe import RecipeName
from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION, Patch, PatchSource
from moma_core.data.sources.demo_tissue import EmbeddedSource
from moma_core.data.sources.medmnist import MedmnistSource

Scenario = Literal["same", "relevant", "irrelevant", "stain", "weak"]
SCENARIOS: tuple[Scenario, ...] = ("same", "relevant", "irrelevant", "stain")
"""The table's; `weak` is `same` with a teacher that saw little."""
Federation = Literal["none", "alone", "pooled", "fedavg"]

TEACHER_PATCHES, WEAK_TEACHER_PATCHES = 400, 60
# ADI BACK DEB LYM MUC MUS NORM STR TUM, which the archive numbers from 0. The teacher
# of the relevant task knows five tissues where the student has nine.
MERGED = {
    "fat or background": ("0", "1"),
    "necrosis or mucus": ("2", "4"),
    "lymphocytes": ("3",),
    "muscle or stroma": ("5", "7"),
    "epithelium": ("6", "8"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Tissue:
    """What the students of one trial are trained and measured on.

    Args:
        source: All of the patches.
        shares: What each site trains on.
        validation: Rows for tuning; of the training centre.
        unseen: Rows of the unseen centre.
        recipe: Of the views.
    """

    source: PatchSource
    shares: tuple[Share, ...]
    validation: Rows
    unseen: Rows
    recipe: RecipeName


class Relabelled:
    """A source under coarser classes.

    Args:
        source: With the fine classes.
        groups: Names of the fine classes by name of the coarse one.
    """

    def __init__(self, source: PatchSource, groups: dict[str, tuple[str, ...]]) -> None:
        self._source = source
        self.class_names = tuple(groups)
        coarse = [
            next(place for place, names in enumerate(groups.values()) if fine in names)
            for fine in source.class_names
        ]
        labels = np.array(coarse, dtype=np.int16)[source.index.labels]
        self.index = replace(source.index, labels=labels)

    def read(self, row: int) -> Patch:
        """Returns a patch; its label is the index's, here."""
        return replace(self._source.read(row), label=int(self.index.labels[row]))


def colon(path: Path) -> PatchSource:
    """Returns the nine-class colon set."""
    return MedmnistSource(path)


def colon_parts(source: PatchSource, seed: int) -> tuple[Rows, Rows]:
    """Returns the teacher's rows and the pool of the students, disjoint."""
    rows = np.random.default_rng(seed).permutation(source.index.rows(TRAIN))
    return np.sort(rows[:TEACHER_PATCHES]), rows[TEACHER_PATCHES:]


def tissue_for(
    scenario: Scenario,
    data: Path,
    seed: int,
    counts: tuple[int, int],
    federation: Federation = "none",
) -> Tissue:
    """Returns the students' patches, the same ones for every method.

    Args:
        scenario: Decides the source.
        data: The colon set.
        seed: Of the division.
        counts: Of a site's labelled patches, spread over the classes as evenly as
            they go, and of its unlabelled ones at most.
        federation: Two sites with half of the pool each, where it is not `none`.
    """
    if scenario == "stain":
        source: PatchSource = EmbeddedSource("site-a")
        pool = np.random.default_rng(seed).permutation(source.index.rows(TRAIN))
    else:
        source = colon(data)
        _, pool = colon_parts(source, seed)
    halves = [pool] if federation == "none" else np.array_split(pool, 2)
    shares = [_share(half, source.index.labels, counts) for half in halves]
    if federation == "alone":
        shares = shares[:1]
    if federation == "pooled":
        shares = [Share(*map(np.concatenate, zip(*shares, strict=True)))]
    return Tissue(
        source,
        tuple(shares),
        source.index.rows(VALIDATION),
        source.index.rows(UNSEEN),
        "geometry_only" if scenario == "stain" else "tissue",
    )


def _share(pool: Rows, labels: NDArray[np.int16], counts: tuple[int, int]) -> Share:
    labelled = _balanced(pool, labels, counts[0])
    rest = pool[~np.isin(pool, labelled)]
    return Share(labelled, rest[: counts[1]])


def _balanced(pool: Rows, labels: NDArray[np.int16], count: int) -> Rows:
    """Returns `count` rows, the first of each class in turn."""
    turns = np.empty(len(pool), dtype=np.int64)
    for label in np.unique(labels[pool]):
        own = np.flatnonzero(labels[pool] == label)
        turns[own] = np.arange(len(own))
    return pool[np.argsort(turns, kind="stable")[:count]]
