"""Which patch serves which purpose: splits by patient, and labels kept or hidden."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from moma_core.config import Section
from moma_core.data.patch import (
    NO_LABEL,
    SPLITS,
    TRAIN,
    UNSEEN,
    VALIDATION,
    Patch,
    PatchIndex,
    PatchSource,
    WrappedSource,
)
from moma_core.errors import DataError

SPLIT_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    "unseen": UNSEEN,
    "test": UNSEEN,
    "testing": UNSEEN,
    "holdout": UNSEEN,
}
"""Names of splits that files and folders use, in any case, and ours."""

_NEARLY_A_SPLIT = re.compile(
    r"(?:\d+[-_. ]*)?(?:my|the|data|patches|images|internal|external)?[-_. ]*"
    rf"(?:{'|'.join(SPLIT_NAMES)}|hold[-_. ]out)[-_. ]*"
    r"(?:s|sets?|split|data|images|patches|cohort|\d+)?[-_. ]*"
)


class SplitFractions(Section):
    """How patients are divided where the data do not say so themselves."""

    train: float = Field(default=0.7, ge=0, le=1, description="Share of patients.")
    validation: float = Field(
        default=0.15, ge=0, le=1, description="Share of patients."
    )
    unseen: float = Field(default=0.15, ge=0, le=1, description="Share of patients.")
    seed: int = Field(
        default=0, ge=0, description="Another seed gives another division."
    )

    @model_validator(mode="after")
    def _sum_is_one(self) -> Self:
        total = self.train + self.validation + self.unseen
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, validation and unseen add up to {total:g}, not 1")
        return self

    def without_unseen(self) -> Self:
        """Returns the same proportion of train to validation, and nothing unseen."""
        rest = 1 - self.unseen
        train = self.train / rest if rest else 1.0
        update = {"train": train, "validation": 1 - train, "unseen": 0.0}
        return self.model_copy(update=update)


def assign_splits(groups: Iterable[str], fractions: SplitFractions) -> dict[str, int]:
    """Returns an index into SPLITS for each distinct group, usually a patient.

    Groups are put in an order of their seeded hash and cut, so the outcome depends
    on their set and the seed alone, not on the order in which rows were read.
    """
    seeded = str(fractions.seed).encode()
    ordered = sorted(
        set(groups),
        key=lambda group: hashlib.blake2b(
            group.encode(errors="surrogateescape"), key=seeded[:64]
        ).digest(),
    )
    ends = np.cumsum([fractions.train, fractions.validation]) * len(ordered)
    cuts = np.round(ends).astype(int)
    places = np.searchsorted(cuts, np.arange(len(ordered)), side="right")
    return dict(zip(ordered, places.tolist(), strict=True))


def hide_labels(index: PatchIndex, *, keep_labelled: int, seed: int) -> PatchIndex:
    """Returns an index in which only some training patches keep their label.

    Every class keeps its share, at least one patch where `keep_labelled` allows;
    validation and unseen patches keep theirs.

    Args:
        index: Of the whole set.
        keep_labelled: Training labels that stay, over all classes.
        seed: Another seed, another choice.
    """
    rows = index.rows(TRAIN, labelled=True)
    if keep_labelled >= len(rows):
        return index
    classes, counts = np.unique(index.labels[rows], return_counts=True)
    draws = np.random.default_rng(seed)
    kept = [
        draws.permutation(rows[index.labels[rows] == label])[:quota]
        for label, quota in zip(classes, _quotas(counts, keep_labelled), strict=True)
    ]
    labels = index.labels.copy()
    labels[np.setdiff1d(rows, np.concatenate([*kept, rows[:0]]))] = NO_LABEL
    return replace(index, labels=labels)


def _quotas(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Shares out `total` by `counts`, at least one each where that is possible."""
    wanted = counts * total / counts.sum()
    reserved = max(0, total - len(counts))  # the rest goes to whoever lacks most
    quotas: NDArray[np.int64] = counts * reserved // counts.sum()
    for _ in range(total - int(quotas.sum())):
        lack = np.where(quotas == 0, counts.sum() + counts, wanted - quotas)
        lack[quotas >= counts] = -np.inf
        quotas[lack.argmax()] += 1
    return quotas


class ReindexedSource(WrappedSource):
    """A source whose index was replaced, for example by `hide_labels`.

    Args:
        source: Where the pixels come from.
        index: Of the same rows.
    """

    def __init__(self, source: PatchSource, index: PatchIndex) -> None:
        if len(index) != len(source.index):
            raise ValueError(f"{len(index)} rows do not fit {len(source.index)}")
        super().__init__(source)
        self._index = index

    @property
    def index(self) -> PatchIndex:
        """The rows as they were replaced."""
        return self._index

    def read(self, row: int) -> Patch:
        """Decodes one patch and gives it the label that the new index has."""
        label = int(self.index.labels[row])
        patch = self._source.read(row)
        return replace(patch, label=None if label == NO_LABEL else label)


def is_split_name(name: str) -> bool:
    """Whether a folder's name is one of a split, in any case."""
    return name.strip().casefold() in SPLIT_NAMES


def is_nearly_a_split_name(name: str) -> bool:
    """Whether a folder was meant as a split, under a name that is not known as one."""
    text = name.strip().casefold()
    return text not in SPLIT_NAMES and bool(_NEARLY_A_SPLIT.fullmatch(text))


def split_code(name: str) -> int:
    """Returns the index into SPLITS for a split's name in a file or folder.

    Raises:
        DataError: No split has this name.
    """
    if not is_split_name(name):
        known = ", ".join(SPLIT_NAMES)
        raise DataError(f"split {name!r} is unknown, expected one of {known}")
    return SPLITS.index(SPLIT_NAMES[name.strip().casefold()])
