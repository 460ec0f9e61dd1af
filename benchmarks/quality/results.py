"""The results of the trials, on disk."""

from dataclasses import fields
from pathlib import Path

from benchmarks.csv_file import CsvFile
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


class Results(CsvFile):
    """The trials that were done.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, COLUMNS, proof="validation_truth")

    def done(self) -> set[tuple[str, str]]:
        """Returns key and settings of the trials that are there."""
        return {(line["key"], line["settings"]) for line in self.lines()}
