"""The updates of one try of a round: kept on the disk, judged together at its end.

A report is checked by itself as it comes. What it says of the model, and how far its
update lies from the others, is judged when all are there: no report decides anything
for the others, and nothing outlives its try.
"""

import shutil
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from moma_core.errors import UpdateRejectedError
from moma_core.federation.aggregation import (
    OUTLIER,
    Aggregation,
    aggregate,
    lower_median,
    movements,
)
from moma_core.federation.task import RoundReport, Weights
from moma_core.federation.weights import (
    StoredWeights,
    check_weights,
    form_of,
    save_weights,
)

OTHER_MODEL = "the report is of another model or classes than most"


@dataclass(frozen=True, slots=True)
class GlobalStudent:
    """The students' common weights, and what they mean.

    Args:
        weights: Tensors by name.
        model: Digest of architecture and classes, see `RoundReport`.
    """

    weights: Weights
    model: str


@dataclass(frozen=True, slots=True)
class _Update:
    site: str
    patches: int
    model: str
    form: tuple[str, ...]
    path: Path


class RoundUpdates:
    """Takes the updates of one try of a round; use it as a context manager.

    Args:
        folder: Where they lie until the try is over; what was left there goes.
        start: The student from which the round goes out; None in the first round, when
            most of the sites say what the model is.
    """

    def __init__(self, folder: Path, *, start: GlobalStudent | None) -> None:
        self._folder = folder
        self._start = start
        self._updates: list[_Update] = []

    def __enter__(self) -> "RoundUpdates":
        """Makes an empty folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        return self

    def __exit__(self, *_error: object) -> None:
        """Deletes the updates."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, site: str, report: RoundReport) -> None:
        """Keeps a site's update.

        Raises:
            UpdateRejectedError: There is none, it is of another model than the round's,
                stands for no patches, or holds a value that no weight has.
        """
        if report.weights is None:
            raise UpdateRejectedError("the report holds no weights")
        if report.patches < 1:
            raise UpdateRejectedError(
                f"an update of {report.patches} patches weighs nothing"
            )
        start = self._start
        if start is not None and report.model != (start.model or report.model):
            raise UpdateRejectedError(OTHER_MODEL)
        check_weights(report.weights, None if start is None else start.weights)
        path = self._folder / f"{len(self._updates):06d}.safetensors"
        save_weights(path, report.weights)
        form = form_of(report.weights)
        self._updates.append(_Update(site, report.patches, report.model, form, path))

    def judge(self) -> Mapping[str, str]:
        """Drops the updates that do not fit the others.

        Returns:
            Why, by site.
        """
        rejected = self._of_other_models()
        self._drop(rejected)
        outliers = self._outliers()
        self._drop(outliers)
        return {**rejected, **outliers}

    def combined(self, rule: Aggregation, *, max_patches: int) -> GlobalStudent:
        """Returns the global student that a rule makes of the updates.

        Raises:
            UpdateRejectedError: There are fewer than the rule needs.
        """
        weights: dict[str, NDArray[Any]] = aggregate(
            rule,
            [StoredWeights(update.path) for update in self._updates],
            [update.patches for update in self._updates],
            start=None if self._start is None else self._start.weights,
            max_patches=max_patches,
        )
        return GlobalStudent(weights, self._updates[0].model)

    def _of_other_models(self) -> dict[str, str]:
        return other_models({u.site: (u.model, u.form) for u in self._updates})

    def _outliers(self) -> dict[str, str]:
        """Of two sites, nothing says which one is far away."""
        if len(self._updates) < 3:
            return {}
        start = None if self._start is None else self._start.weights
        stored = [StoredWeights(update.path) for update in self._updates]
        moved = movements(stored, start)
        usual = lower_median(moved)
        return {
            update.site: (
                f"it moved the weights {far / usual:.0f} times as far as the median "
                f"site, {OUTLIER:.0f} times are taken"
            )
            for update, far in zip(self._updates, moved, strict=True)
            if 0 < usual < far / OUTLIER
        }

    def _drop(self, sites: Mapping[str, str]) -> None:
        self._updates = [u for u in self._updates if u.site not in sites]


def other_models(reported: Mapping[str, Hashable]) -> dict[str, str]:
    """Returns why which sites are not taken, given what each reports as its model."""
    ranked = Counter(reported.values()).most_common(2)
    if len(ranked) < 2:
        return {}
    if ranked[0][1] == ranked[1][1]:
        return dict.fromkeys(
            reported, "the sites report several models, none of them most"
        )
    return {site: OTHER_MODEL for site, its in reported.items() if its != ranked[0][0]}
