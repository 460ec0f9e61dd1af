"""The measurements, on disk."""

from pathlib import Path

from benchmarks.csv_file import CsvFile

COLUMNS = (
    "part",
    "key",
    "repetition",
    # what was measured
    "service",
    "model",
    "side_px",
    "batch",
    "in_flight",
    "streams",
    # what came of it
    "batches",
    "seconds",
    "p50_ms",
    "p95_ms",
    "site_cpu",  # seconds, as those below
    "service_cpu",
    "books_cpu",
    "relay_cpu",
    "entries",
    "commits",
    "resident_mib",
    "done",
)


class Results(CsvFile):
    """The measurements that were done.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, COLUMNS, proof="done")

    def done(self) -> set[str]:
        """Returns the keys of the measurements that are there."""
        return {line["key"] for line in self.lines()}
