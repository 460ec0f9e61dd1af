"""The raw rows on disk: one a measurement, added when it is done."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path

COLUMNS = (
    "part",
    "key",
    "seed",
    # students: which, of what answers about which patches, and how like the teacher
    "student",
    "output",
    "coverage",
    "patches",
    "queries",
    "agreement",
    "kl",
    "l1",
    "cosine",
    "accuracy",
    "agrees",
    # members: which attack on which groups, and its score of each patch
    "groups",
    "attack",
    "advantage",
    "auc",
    "first_scores",
    "second_scores",
    # layers: which one, by how many moves of what size, and how well
    "layer",
    "steps",
    "size",
    "answers",
    "relative_error",
    "seconds",
)

Row = Mapping[str, str]


class Results:
    """A CSV file that grows; a run that was cut off goes on after its last row.

    Args:
        path: Of the file; made when the first row comes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self) -> list[Row]:
        """Returns what is there; a row that was cut off is not."""
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
        return [row for row in found if None not in row.values() and row["seconds"]]

    def done(self) -> set[str]:
        """Returns the keys of the measurements that are there."""
        return {row["key"] for row in self.rows()}

    def add(self, row: Mapping[str, object]) -> None:
        """Adds one row and makes it durable."""
        is_new = not self._path.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
