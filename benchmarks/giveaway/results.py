"""The results of the measurements, on disk."""

from pathlib import Path

from benchmarks.csv_file import CsvFile

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


class Results(CsvFile):
    """The measurements that were done.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, COLUMNS, proof="seconds")

    def done(self) -> set[str]:
        """Returns the keys of the measurements that are there."""
        return {line["key"] for line in self.lines()}
