"""`python -m benchmarks.keep`: which epoch `training.keep` and `patience` would choose.

Students of `benchmarks.quality` in *same*, three times as long, measured after each
epoch on both halves of the validation split. One half chooses an epoch and the other
judges it, and the other way round, so that no image is asked about a choice that it
made. Images of the unseen centre are not read. A good minute of one core a student.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.csv_file import CsvFile
from benchmarks.quality.students import make_student
from benchmarks.quality.teachers import memory_for
from benchmarks.quality.tissue import tissue_for
from benchmarks.quality.training import Course, NobodyWatches, trainer_for
from benchmarks.quality.trial import measured, teacher_for_row
from benchmarks.quality.trials import ATTENTION_SEEDS, ROWS, Trial, training_search
from moma_core.distillation.methods.names import uses_outputs

METHODS = ("moma", "ce")
EPOCHS, STEPS_PER_EPOCH, SEEDS = 30, 10, 6
HALVES = ("first_half", "second_half")
COLUMNS = ("method", "seed", "epochs", "steps_per_epoch", *HALVES, "seconds")
_RESULTS = Path(__file__).resolve().parent / "results/keep.csv"
_WORK = Path(__file__).resolve().parent / "work"
Line = Mapping[str, str]


class Rule(NamedTuple):
    """How a student is chosen.

    Args:
        keep: As `training.keep`.
        patience: As `training.patience`.
    """

    keep: str
    patience: int

    def choose(self, figures: Sequence[float]) -> tuple[int, int]:
        """Returns the epoch that is kept, from 0, and how many are taken.

        Args:
            figures: Of each epoch, the higher the better.
        """
        best = waited = epoch = 0
        for epoch, figure in enumerate(figures):
            is_better = epoch == 0 or figure > figures[best]
            best, waited = (epoch, 0) if is_better else (best, waited + 1)
            if self.patience and waited == self.patience:
                break
        return (best if self.keep == "best" else epoch), epoch + 1


RULES = tuple(Rule(keep, wait) for wait in (0, 5) for keep in ("last", "best"))


def trial(data: Path, work: Path, method: str, seed: int) -> dict[str, object]:
    """Trains one student and returns its line of the results.

    Args:
        data: The colon set.
        work: Where teachers are kept.
        method: A row of `benchmarks.quality`.
        seed: Of division, teacher, student and order.
    """
    torch.set_num_threads(1)
    since, row = time.process_time(), ROWS[method]
    planned = _planned(method, seed)
    tissue = tissue_for("same", data, seed, (planned.labels, planned.unlabelled))
    (share,) = tissue.shares
    memory = memory_for("same", seed, data, work, maps=False)
    student = make_student(planned, row, tissue, share, memory.encoder)
    if not uses_outputs(row.method):
        share = share._replace(unlabelled=share.unlabelled[:0])
    course = Course(
        steps=STEPS_PER_EPOCH,
        rate=planned.rate,
        seed=seed,
        recipe=tissue.recipe,
        views=row.views,
        rounds=EPOCHS,
    )
    validation = np.random.default_rng(seed).permutation(tissue.validation)
    halves = dict(zip(HALVES, np.array_split(validation, 2), strict=True))
    curves: dict[str, list[object]] = {name: [] for name in HALVES}
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(student, tissue.source, share, course, Path(folder))
        teacher = teacher_for_row(row, memory, student)
        for epoch in range(1, EPOCHS + 1):
            trainer.train(teacher, until_epoch=epoch, callback=NobodyWatches())
            for name, rows in halves.items():
                figures = measured(student, tissue, name, rows)
                curves[name].append(figures[f"{name}_macro_f1"])
    line: dict[str, object] = {"method": method, "seed": seed, "epochs": EPOCHS}
    line["steps_per_epoch"] = STEPS_PER_EPOCH
    line |= {name: " ".join(map(str, curve)) for name, curve in curves.items()}
    line["seconds"] = round(time.process_time() - since, 1)
    return line


def _planned(method: str, seed: int) -> Trial:
    """Returns the trial of the shipped default, or of a method beside it."""
    moma = next(
        each for each in training_search() if (each.row, each.seed) == ("moma", seed)
    )
    return moma if method == "moma" else replace(moma, row=method, scale=1.0)


def judged(line: Line, rule: Rule) -> tuple[float, float, float]:
    """Returns what a rule gains on one student, the mean of both ways round.

    Args:
        line: Of the results.
        rule: Chooses.

    Returns:
        Macro-F1 on the half that had no part in the choice, on the half that made it,
        and the epochs that were taken.
    """
    first, second = ([float(each) for each in line[name].split()] for name in HALVES)
    found = []
    for chooses, judges in ((first, second), (second, first)):
        epoch, taken = rule.choose(chooses)
        found.append((judges[epoch], chooses[epoch], taken))
    fair, own, epochs = np.mean(found, axis=0).tolist()
    return fair, own, epochs


def table(lines: Sequence[Line]) -> str:
    """Returns what each rule gains, beside the last epoch, over the seeds."""
    head = ("method", "keep", "patience", "judged", "beside last", "chose", "epochs")
    rows: list[Sequence[str]] = [head, ["---"] * len(head)]
    for method in dict.fromkeys(line["method"] for line in lines):
        own = [line for line in lines if line["method"] == method]
        last = np.array([judged(line, RULES[0])[0] for line in own])
        for rule in RULES:
            fair, chose, epochs = np.array([judged(line, rule) for line in own]).T
            gains = fair - last
            rows.append(
                (
                    method,
                    rule.keep,
                    str(rule.patience),
                    f"{fair.mean():.3f} ± {fair.std(ddof=1):.3f}",
                    f"{gains.mean():+.3f} ± {gains.std(ddof=1):.3f}",
                    f"{chose.mean():.3f}",
                    f"{epochs.mean():.1f}",
                )
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Does the trials that are not there yet, and prints the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.keep", description=__doc__)
    parser.add_argument("--data", type=Path, metavar="PATHMNIST.NPZ", required=True)
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--work", type=Path, default=_WORK)
    options = parser.parse_args(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    results = CsvFile(options.results, COLUMNS, proof=COLUMNS[-1])
    done = {(line["method"], line["seed"]) for line in results.lines()}
    for seed in ATTENTION_SEEDS[:SEEDS]:
        for method in METHODS:
            if (method, str(seed)) not in done:
                line = trial(options.data, options.work, method, seed)
                results.add(line)
                print(method, seed, f"{line['seconds']} s", flush=True)
    print(table(results.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
