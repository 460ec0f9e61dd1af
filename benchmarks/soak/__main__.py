"""`python -m benchmarks.soak`: many sites ask one teacher for an hour, or less."""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.csv_file import CsvFile, Line
from benchmarks.service.tables import table
from benchmarks.soak.trials import Plan, Row, fairness, growth, overload, restarts

_HERE = Path(__file__).resolve().parents[1]
_PARTS: dict[str, Callable[[Plan, Path], Iterator[Row]]] = {
    "growth": growth,
    "fairness": fairness,
    "overload": overload,
    "restarts": restarts,
}
_COLUMNS = (
    "part",
    "key",
    "sites",
    "seconds",
    "answered",
    "faults",
    "p50_ms",
    "p95_ms",
    "resident_mib",
    "handles",
    "threads",
    "entries",
    "log_ms",
    "serving",
    "load_average",
    "fault",
    "done",
)
_SHOWN = {
    "growth": "key answered faults p50_ms p95_ms resident_mib handles threads entries "
    "log_ms serving load_average",
    "fairness": "key answered faults p50_ms p95_ms load_average",
    "overload": "key sites answered faults p50_ms p95_ms serving load_average",
    "restarts": "key sites seconds answered faults p50_ms p95_ms entries load_average",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Soaks, writes each row down, prints the tables; returns the exit code."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options = _parser().parse_args(argv)
    results = CsvFile(options.results, _COLUMNS, proof="done")
    if not options.summary:
        options.results.unlink(missing_ok=True)
        options.work.mkdir(parents=True, exist_ok=True)
        plan = Plan(options.sites, options.seconds, options.periods)
        for part in options.part or _PARTS:
            for row in _PARTS[part](plan, options.work):
                load = round(os.getloadavg()[0], 1)
                results.add({**row, "load_average": load, "done": "yes"})
                print(row, file=sys.stderr)
    print(as_markdown(results.lines()))
    return 0


def as_markdown(lines: Sequence[Line]) -> str:
    """Returns a table for each part, and how much the greedy one costs the modest."""
    tables = []
    for part, columns in _SHOWN.items():
        names = columns.split()
        rows = [
            [line[name] for name in names] for line in lines if line["part"] == part
        ]
        tables.append(table(" | ".join(names), rows))
    slowed = slowed_by_greed(lines)
    if slowed is not None:
        tables.append(
            f"beside a greedy site a modest one waits {slowed:.2f} times as long"
        )
    return "\n\n".join(filter(None, tables))


def slowed_by_greed(lines: Sequence[Line]) -> float | None:
    """Returns how many times as long a modest site waits beside a greedy one.

    The medians are compared, with those beside another modest one; None: not measured.
    """
    medians = []
    for name in ("a greedy one", "a modest one"):
        found = [
            float(line["p50_ms"])
            for line in lines
            if line["part"] == "fairness" and line["key"].startswith(f"beside {name}")
        ]
        if not found:
            return None
        medians.append(statistics.median(found))
    return medians[0] / medians[1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.soak", description=__doc__)
    parser.add_argument("--sites", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--periods", type=int, default=12)
    parser.add_argument("--part", choices=_PARTS, action="append")
    parser.add_argument("--summary", action="store_true", help="only what is there")
    parser.add_argument("--results", type=Path, default=_HERE / "results/soak.csv")
    parser.add_argument("--work", type=Path, default=_HERE / "work")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
