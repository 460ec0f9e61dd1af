"""The doctor's look at a site's patches: splits, patients, and the pictures."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moma_client.config.site import SiteConfig
from moma_client.reports.doctor.finding import Finding, State
from moma_core.data.patch import (
    TRAIN,
    UNKNOWN_PATIENT,
    UNSEEN,
    VALIDATION,
    PatchIndex,
    PatchSource,
)
from moma_core.data.sources.factory import open_pictures, open_source
from moma_core.errors import DataError

_SAMPLE = 200  # pictures that are opened where not all are
_MOST_NAMED = 20


class DataLook:
    """Looks at the patches step by step.

    Args:
        config: Settings of this site.

    Attributes:
        found: Patches, once they were opened and there is one to train on.
    """

    def __init__(self, config: SiteConfig) -> None:
        self._config = config
        self.found: PatchSource | None = None

    def counts(self) -> Iterator[Finding]:
        """Yields how many patches and patients there are, by split.

        Raises:
            DataError: They cannot be read, or break a rule, such as a patient in two
                splits.
        """
        source = open_source(self._config.data)
        index = source.index
        labelled = len(index.rows(TRAIN, labelled=True))
        unlabelled = len(index.rows(TRAIN, labelled=False))
        counts = (
            f"{labelled} labelled and {unlabelled} unlabelled to train on, "
            f"{len(index.rows(VALIDATION))} to validate, "
            f"{len(index.rows(UNSEEN))} unseen; {len(source.class_names)} classes"
        )
        if not labelled:
            text = f"no labelled patch to train on: {counts}"
            yield Finding("data", "problem", text)
            return
        self.found = source
        yield Finding("data", "ok", counts)
        if not len(index.rows(VALIDATION, labelled=True)):
            text = "no labelled patch to validate on: no figure will be disclosed"
            yield Finding("data", "warning", text)
        yield _patients(index)

    def pictures(self, *, all_of_them: bool) -> Iterator[Finding]:
        """Yields whether pictures can be read; names those that cannot.

        Args:
            all_of_them: Opens each; else a sample, evenly spread.

        Raises:
            DataError: The patches are no files, and one cannot be read.
        """
        source = open_pictures(self._config.data)
        if source is None:
            if self.found is not None:
                self.found.read(int(self.found.index.rows(TRAIN)[0]))
            yield Finding("pictures", "ok", "patches come from one file")
            return
        rows = _rows(len(source.index), all_of_them=all_of_them)
        faults, sides = [], []
        for row in rows:
            try:
                sides.append(max(source.read(int(row)).pixels.shape[:2]))
            except DataError as error:
                faults.append(f"{source.path_of(int(row))}: {error}")
        opened = _Opened(len(rows), len(source.index), faults)
        yield opened.finding(self._config.data.max_unreadable)
        size = self._config.view_size_px
        if sides and max(sides) < size:
            text = (
                f"the largest has {max(sides)} px a side, view_size_px: {size} "
                f"stretches it: set view_size_px: {max(sides)}, or cut larger patches"
            )
            yield Finding("pictures", "warning", text)


class _Opened(NamedTuple):
    """What came of opening pictures."""

    tried: int
    total: int
    faults: list[str]

    def finding(self, tolerated: int) -> Finding:
        """Returns how it stands where so many broken ones are tolerated."""
        part = f"{self.tried} of {self.total} opened"
        if self.tried < self.total:
            part += "; --all-pictures opens each"
        if not self.faults:
            return Finding("pictures", "ok", part)
        broken = len(self.faults)
        text = (
            f"{broken} cannot be read, data.max_unreadable: {tolerated} tolerated; "
            f"mend them, or take them out of the data ({part})"
        )
        state: State = "problem" if broken > tolerated else "warning"
        more = tuple(self.faults[:_MOST_NAMED])
        if broken > len(more):
            more += (f"and {broken - len(more)} more",)
        return Finding("pictures", state, text, more=more)


def _rows(total: int, *, all_of_them: bool) -> NDArray[np.int64]:
    if all_of_them or total <= _SAMPLE:
        return np.arange(total)
    return np.unique(np.linspace(0, total - 1, _SAMPLE).astype(np.int64))


def _patients(index: PatchIndex) -> Finding:
    unknown = int((index.patients == UNKNOWN_PATIENT).sum())
    if unknown:
        text = (
            f"{unknown} of {len(index)} patches name no patient: nobody can tell "
            f"whether one is in two splits"
        )
        return Finding("data", "warning", text)
    splits = (TRAIN, VALIDATION, UNSEEN)
    each = [
        f"{split} {len(np.unique(index.patients[index.rows(split)]))}"
        for split in splits
    ]
    return Finding("data", "ok", f"patients, none in two splits: {', '.join(each)}")
