"""`python -m benchmarks.service`: what the service costs beside a bare one."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.service.backends import NOTHING
from benchmarks.service.layers import layers
from benchmarks.service.results import Results
from benchmarks.service.summary import summary
from benchmarks.service.tables import as_markdown
from benchmarks.service.trials import (
    CELLS,
    QUICK,
    Plan,
    Row,
    compared,
    grouped,
    over_time,
)
from benchmarks.service.world import world_of
from moma_core.errors import MomaError

_HERE = Path(__file__).resolve().parents[1]
_PARTS = ("compared", "layers", "grouped", "memory")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.service", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repetition each")
    parser.add_argument("--part", choices=_PARTS, action="append")
    parser.add_argument("--summary", action="store_true", help="only what is there")
    parser.add_argument("--json", action="store_true", help="the summary as JSON")
    parser.add_argument("--results", type=Path, default=_HERE / "results/service.csv")
    parser.add_argument("--work", type=Path, default=_HERE / "work")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what is not measured yet, prints the tables; returns the exit code."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the model, here and there
    options = _parser().parse_args(argv)
    results = Results(options.results)
    try:
        if not options.summary:
            options.work.mkdir(parents=True, exist_ok=True)
            plan = QUICK if options.quick else Plan()
            parts = options.part or _PARTS
            for row in _rows(plan, parts, options.work, results.done()):
                results.add(row)
                print(row["key"], f"{row.get('seconds', '')} s", file=sys.stderr)
        found = summary(results.lines())
        print(json.dumps(found, indent=1) if options.json else as_markdown(found))
    except MomaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _rows(
    plan: Plan, parts: Sequence[str], work: Path, done: set[str]
) -> Iterator[Row]:
    if "layers" in parts:
        for repetition in range(plan.repetitions):
            for batch in (1, 16, 64):
                yield from layers(224, batch, work, repetition, done)
    if "compared" in parts:
        for cell in CELLS:
            with world_of(cell.model, cell.side_px, work) as world:
                yield from compared(world, cell, plan, done)
    if "grouped" in parts:
        with world_of(NOTHING, 32, work) as world:
            yield from grouped(world, 32, plan, done)
    if "memory" in parts:
        with world_of(NOTHING, 224, work) as world:
            yield from over_time(world, 224, plan, done)


if __name__ == "__main__":
    sys.exit(main())
