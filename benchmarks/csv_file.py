"""Results on disk: one line a measurement, added and made durable when it is done."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

Line = Mapping[str, str]


class CsvFile:
    """A file that grows; a run that was cut off goes on after its last whole line.

    Args:
        path: Of the file; made when the first line comes.
        columns: Their names.
        proof: A column that every whole line fills.
    """

    def __init__(self, path: Path, columns: Sequence[str], proof: str) -> None:
        self._path, self._columns, self._proof = path, columns, proof

    def lines(self) -> list[Line]:
        """Returns what is there; a line that was cut off is not."""
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            return [line for line in csv.DictReader(file) if self._is_whole(line)]

    def add(self, line: Mapping[str, object]) -> None:
        """Adds one line and makes it durable."""
        is_new = not self._path.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not is_new:
            self._drop_cut_line()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(
                file, self._columns, restval="", lineterminator="\n"
            )
            if is_new:
                writer.writeheader()
            writer.writerow(line)
            file.flush()
            os.fsync(file.fileno())

    def _drop_cut_line(self) -> None:
        """Takes away what a kill left behind the last whole line."""
        with self._path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)

    def _is_whole(self, line: Line) -> bool:
        cells = (*line, *line.values())  # a name of None: more cells than columns
        return None not in cells and bool(line[self._proof])
