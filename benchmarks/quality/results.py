"""The results on disk: one line a trial, added when it is done."""

import csv
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from benchmarks.quality.trials import Trial

_FOUND = ("accuracy", "macro_f1", "kappa", "ece", "predicted", "truth")
COLUMNS = (
    "key",
    "settings",
    *(field.name for field in fields(Trial)),
    "answers",
    "seconds",
    *(f"{split}_{name}" for split in ("validation", "unseen") for name in _FOUND),
)

Line = Mapping[str, str]


class Results:
    """A CSV file that grows; a run that was cut off goes on after its last line.

    Args:
        path: Of the file; made when the first line comes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[Line]:
        """Returns what is there; a line that was cut off is not."""
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            return [
                line for line in csv.DictReader(file) if line["key"] and _whole(line)
            ]

    def done(self) -> set[tuple[str, str]]:
        """Returns key and settings of the trials that are there."""
        return {(line["key"], line["settings"]) for line in self.lines()}

    def add(self, line: Mapping[str, object]) -> None:
        """Adds one line and makes it durable."""
        is_new = not self._path.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not is_new:
            self._drop_cut_line()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(line)
            file.flush()
            os.fsync(file.fileno())

    def _drop_cut_line(self) -> None:
        """Takes away what a kill left behind the last whole line."""
        with self._path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _whole(line: Line) -> bool:
    return (
        None not in line
        and None not in line.values()
        and bool(line["validation_truth"])
    )
