"""Figures of a network on labelled patches: each with its n, interval or reason."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

RECALL: Final = "recall_"

_ONE: Final = {"patients": "patient", "slides": "slide", "patches": "patch"}


class Figure(NamedTuple):
    """One figure.

    Args:
        value: What was measured; None: nothing that deserves the name.
        patches: On how many labelled patches: for a class's recall, those of the class.
        groups: Of how many patients, as far as the patches name them.
        interval: Its 95 % interval; None: there is none.
        reason: Why there is no value, or no interval; empty: both are there.
    """

    value: float | None
    patches: int
    groups: int
    interval: tuple[float, float] | None = None
    reason: str = ""

    def __str__(self) -> str:
        """Returns the figure as a person reads it, n and interval included."""
        if self.value is None:
            return f"none: {self.reason}"
        if self.interval is None:
            return f"{self.value:.3f}  no interval: {self.reason}  n={self.patches}"
        low, high = self.interval
        return f"{self.value:.3f}  95 % {low:.3f} to {high:.3f}  n={self.patches}"

    def as_json(self) -> dict[str, Any]:
        """Returns it as JSON holds it: null where there is none, never NaN."""
        low, high = self.interval or (None, None)
        return {
            "value": self.value,
            "low": low,
            "high": high,
            "patches": self.patches,
            "groups": self.groups,
            "reason": self.reason or None,
        }


class Evaluation(NamedTuple):
    """What was measured on one set of labelled patches.

    Args:
        figures: By key, such as `accuracy` or `recall_tumour`.
        patches: How many there were.
        groups: How many patients, slides or patches were drawn for the intervals.
        counted: What a group is, in a sentence: `patients`.
        class_names: The classes' own names, by their part of a key.
        precision: Of each class that was predicted, by its part of a key; no egress
            policy knows it, so it is told to nobody.
    """

    figures: Mapping[str, Figure]
    patches: int = 0
    groups: int = 0
    counted: str = "patches"
    class_names: Mapping[str, str] = {}
    precision: Mapping[str, Figure] = {}

    def __str__(self) -> str:
        """Returns a line for each figure, with n and interval."""
        drawn = f"intervals by drawing {self.groups} {self.counted}"
        return "\n".join([*self.lines(""), *([drawn] if self.intervals() else [])])

    def values(self, prefix: str = "") -> dict[str, float]:
        """Returns the figures that there are, by key.

        Args:
            prefix: Stands before each key, for example `validation_`.
        """
        return {
            f"{prefix}{key}": figure.value
            for key, figure in self.figures.items()
            if figure.value is not None
        }

    def all_values(self, prefix: str = "") -> dict[str, float | None]:
        """Returns all figures, None for those that are absent; else as `values`."""
        return {f"{prefix}{key}": each.value for key, each in self.figures.items()}

    def intervals(self, prefix: str = "") -> dict[str, tuple[float, float]]:
        """Returns the intervals that there are; keys as in `values`."""
        return {
            f"{prefix}{key}": figure.interval
            for key, figure in self.figures.items()
            if figure.interval is not None
        }

    def as_json(self) -> dict[str, Any]:
        """Returns all of it for JSON, with the classes' own names beside the keys."""
        return {
            "patches": self.patches,
            "groups": self.groups,
            "groups_are": self.counted,
            "figures": {key: each.as_json() for key, each in self.figures.items()},
            "recall": {
                name: self.figures[f"{RECALL}{key}"].value
                for key, name in self.class_names.items()
                if f"{RECALL}{key}" in self.figures
            },
            "precision": {
                self.class_names[key]: each.as_json()
                for key, each in self.precision.items()
            },
            "class_keys": {name: key for key, name in self.class_names.items()},
        }

    def lines(self, name: str) -> Iterator[str]:
        """Yields the figures as a person reads them; classes as they are written.

        Args:
            name: Stands before each figure, for example `validation_`.
        """
        reasons = {each.reason for each in self.figures.values()}
        if len(reasons) == 1 and not self.values():
            yield f"{name.rstrip('_')}  no figure: {reasons.pop()}".strip()
            return
        for key, figure in self.figures.items():
            yield f"{name}{key}  {figure}{self._class_of(key)}"

    def summary(self) -> str:
        """Returns the figures of all classes together in one line, for a log."""
        texts = [
            f"{key} {' '.join(str(figure).split())}"
            for key, figure in self.figures.items()
            if not key.startswith(RECALL)
        ]
        on = f"{self.patches} patches{of_groups(self.groups, self.counted)}"
        return f"{'; '.join(texts)} (on {on})"

    def _class_of(self, key: str) -> str:
        name = self.class_names.get(key.removeprefix(RECALL))
        if name is None or not key.startswith(RECALL):
            return ""
        return f"  class {name}"


def of_groups(groups: int, counted: str) -> str:
    """Returns whose some patches are: ` of 7 patients`; empty where nobody is named.

    Args:
        groups: How many groups there are.
        counted: What a group is, as in an `Evaluation`.
    """
    return "" if counted == "patches" else f" of {count_of_groups(groups, counted)}"


def count_of_groups(groups: int, counted: str) -> str:
    """Returns a number with its noun: `1 patient`, `7 patients and slides`."""
    return f"{groups} {_ONE.get(counted, counted) if groups == 1 else counted}"


def class_keys(class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns each class's part of a figure's key, in order; no two are equal.

    It is the name in lower case with underscores. Where nothing is left of a name, or
    two classes would share one, it is `class_` with the class's place, from 1.
    """
    plain = [re.sub(r"[^a-z0-9]+", "_", n.lower()).strip("_") for n in class_names]
    counts = Counter(plain)
    numbered = {place for place, key in enumerate(plain) if not key or counts[key] > 1}
    while True:
        keys = [
            f"class_{place + 1}" if place in numbered else key
            for place, key in enumerate(plain)
        ]
        counts = Counter(keys)
        shared = {place for place, key in enumerate(keys) if counts[key] > 1}
        if not shared - numbered:
            return tuple(keys)
        numbered |= shared
