"""`python -m benchmarks.soak`: many sites ask one teacher for an hour, or less."""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.csv_file import CsvFile, Line
from benchmarks.service.tables import table
from benchmarks.soak.trials import (
    Plan,
    Row,
    fairness,
    floods,
    growth,
    overload,
    quick_floods,
    restarts,
)

_HERE = Path(__file__).resolve().parents[1]
_PARTS: dict[str, Callable[[Plan, Path], Iterator[Row]]] = {
    "growth": growth,
    "fairness": fairness,
    "floods": floods,
    "quick-floods": quick_floods,
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
    "floods": "key answered faults p50_ms p95_ms load_average",
    "quick-floods": "key answered faults p50_ms p95_ms load_average",
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
    """Returns a table for each part, and what neighbours cost a modest site."""
    tables = []
    for part, columns in _SHOWN.items():
        names = columns.split()
        rows = [
            [line[name] for name in names] for line in lines if line["part"] == part
        ]
        tables.append(table(" | ".join(names), rows))
    return "\n\n".join(filter(None, [*tables, *slowdowns(lines)]))


def slowdowns(lines: Sequence[Line]) -> Iterator[str]:
    """Yields how many times as long a modest site waits beside each neighbour.

    The medians are compared, with those beside another modest one.
    """
    for part in ("fairness", "floods", "quick-floods"):
        found: dict[str, list[float]] = {}
        for line in lines:
            if line["part"] == part:
                neighbour, _ = line["key"].split("/")
                found.setdefault(neighbour, []).append(float(line["p50_ms"]))
        modest = found.pop("beside a modest one", [])
        for neighbour, each in found.items() if modest else ():
            slowed = statistics.median(each) / statistics.median(modest)
            yield f"{part}: {neighbour} a modest site waits {slowed:.2f} times as long"


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
