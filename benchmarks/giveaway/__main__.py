"""`python -m benchmarks.giveaway --data pathmnist.npz`: what the teacher gives away."""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch

from benchmarks.giveaway.layers import layer_trials, run_layer
from benchmarks.giveaway.members import member_trials, run_member
from benchmarks.giveaway.plot import draw
from benchmarks.giveaway.results import Results
from benchmarks.giveaway.students import run_student, student_trials
from benchmarks.giveaway.summary import summary
from benchmarks.giveaway.tables import as_markdown
from benchmarks.giveaway.teachers import MessageContext
from moma_core.errors import MomaError

_HERE = Path(__file__).resolve().parents[1]


class _Trial(Protocol):
    @property
    def key(self) -> str: ...

    @property
    def seed(self) -> int: ...


Job = tuple[str, _Trial, Callable[[], Mapping[str, object]]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.giveaway", description=__doc__)
    parser.add_argument("--data", type=Path, metavar="PATHMNIST.NPZ")
    parser.add_argument(
        "--part", choices=("members", "layers", "students"), action="append"
    )
    parser.add_argument("--most", type=int, help="measure so many, then stop")
    parser.add_argument("--summary", action="store_true", help="only what is there")
    parser.add_argument("--json", action="store_true", help="the summary as JSON")
    parser.add_argument("--results", type=Path, default=_HERE / "results/giveaway.csv")
    parser.add_argument("--work", type=Path, default=_HERE / "work")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what is not measured yet, prints the tables; returns the exit code."""
    options = _parser().parse_args(argv)
    results = Results(options.results)
    if options.data is None and not options.summary:
        print("--data is needed: a PathMNIST archive", file=sys.stderr)
        return 2
    try:
        if not options.summary:
            options.work.mkdir(parents=True, exist_ok=True)
            jobs = _jobs(MessageContext(options.data, options.work), options.part)
            _measure(jobs, results, options.most)
        found = summary(results.lines())
        print(json.dumps(found, indent=1) if options.json else as_markdown(found))
        if found["students"] and found["members"]:
            draw(found, options.results.with_suffix(".png"))
    except MomaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _jobs(place: MessageContext, parts: list[str] | None) -> Iterator[Job]:
    wanted = parts or ["members", "layers", "students"]
    if "members" in wanted:
        for member in member_trials():
            yield "members", member, partial(run_member, member, place)
    if "layers" in wanted:
        for layer in layer_trials():
            yield "layers", layer, partial(run_layer, layer, place)
    if "students" in wanted:
        for student in student_trials():
            yield "students", student, partial(run_student, student, place)


def _measure(jobs: Iterable[Job], results: Results, most: int | None) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="lightning_fabric")
    done = results.done()
    left = (job for job in jobs if job[1].key not in done)
    for part, trial, measure in islice(left, most):
        since = time.process_time()
        row = dict(measure())
        row |= {"part": part, "key": trial.key, "seed": trial.seed}
        row |= {"seconds": round(time.process_time() - since, 2)}
        results.add(row)
        print(trial.key, f"{row['seconds']} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
