"""Which patch serves which purpose: splits by patient, and labels kept or hidden."""

import hashlib
import logging
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
    UNKNOWN_PATIENT,
    UNKNOWN_SLIDE,
    Patch,
    PatchIndex,
    PatchSource,
)
from moma_core.errors import DataError

_logger = logging.getLogger(__name__)

SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "unseen": "unseen",
    "test": "unseen",
}
"""Names of splits that files and folders use, and ours."""


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
        key=lambda group: hashlib.blake2b(group.encode(), key=seeded[:64]).digest(),
    )
    ends = np.cumsum([fractions.train, fractions.validation]) * len(ordered)
    cuts = np.round(ends).astype(int)
    places = np.searchsorted(cuts, np.arange(len(ordered)), side="right")
    return dict(zip(ordered, places.tolist(), strict=True))


def check_splits(index: PatchIndex) -> None:
    """Refuses a set in which a patient serves two purposes.

    Where the patient is unknown, the slide stands for it.

    Raises:
        DataError: Patients, or slides of unknown patients, stand in two splits; the
            message counts, never names.
    """
    known = index.patients != UNKNOWN_PATIENT
    if not known.all():
        _logger.warning(
            "%d of %d patches name no patient: nobody can tell whether a patient is "
            "in two splits",
            int((~known).sum()),
            len(index),
        )
    if torn := _torn(index.patients[known], index.splits[known]):
        raise DataError(f"{torn} patients are in more than one split")
    if index.slides is None:
        return
    alone = ~known & (index.slides != UNKNOWN_SLIDE)
    if torn := _torn(index.slides[alone], index.splits[alone]):
        raise DataError(f"{torn} slides of unknown patients are in more than one split")


def _torn(codes: NDArray[np.int32], splits: NDArray[np.uint8]) -> int:
    """Returns how many codes stand in more than one split."""
    pairs = np.unique(np.stack([codes, splits.astype(np.int32)]), axis=1)
    _, splits_of_code = np.unique(pairs[0], return_counts=True)
    return int((splits_of_code > 1).sum())


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


class ReindexedSource:
    """A source whose index was replaced, for example by `hide_labels`.

    Args:
        source: Where the pixels come from.
        index: Of the same rows.
    """

    def __init__(self, source: PatchSource, index: PatchIndex) -> None:
        if len(index) != len(source.index):
            raise ValueError(f"{len(index)} rows do not fit {len(source.index)}")
        self._source = source
        self.index = index

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class index."""
        return self._source.class_names

    def read(self, row: int) -> Patch:
        """Decodes one patch and gives it the label that the new index has."""
        label = int(self.index.labels[row])
        patch = self._source.read(row)
        return replace(patch, label=None if label == NO_LABEL else label)


def split_code(name: str) -> int:
    """Returns the index into SPLITS for a split's name in a file or folder.

    Raises:
        DataError: No split has this name.
    """
    if name not in SPLIT_NAMES:
        known = ", ".join(SPLIT_NAMES)
        raise DataError(f"split {name!r} is unknown, expected one of {known}")
    return SPLITS.index(SPLIT_NAMES[name])
