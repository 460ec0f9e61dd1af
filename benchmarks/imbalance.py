"""`python -m benchmarks.imbalance`: what `training.balance` does for rare classes.

Nine classes of colon tissue; four of them, drawn by seed, have a tenth of the others'
labelled patches. Every student starts from the same ImageNet weights and takes the same
number of steps with cross-entropy. Four minutes of one core in all.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy import int64
from numpy.typing import NDArray

from benchmarks.csv_file import CsvFile
from benchmarks.quality.training import NobodyWatches
from moma_core.data.augment.recipe import ViewRecipe
from moma_core.data.loader import TrainingBatches, evaluation_batches
from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION, PatchSource
from moma_core.data.sources.medmnist import MedmnistSource
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import Distiller
from moma_core.models.backbone import LITE0, Backbone, Normalise
from moma_core.teacher.local import AbsentTeacher
from moma_core.training.devices import batch_settings, make_fabric
from moma_core.training.settings import TrainingSettings
from moma_core.training.trainer import Trainer, TrainingRun

Balance = Literal["none", "weights", "sampler"]
Rows = NDArray[int64]

COMMON, RARE, RARE_CLASSES = 60, 6, 4
BATCH_SIZE, RATE, VIEW_SIZE_PX = 32, 0.02, 48
SPLITS = {"validation": VALIDATION, "unseen": UNSEEN}
FIGURES = ("rare_recall", "common_recall", "macro_recall")
COLUMNS = (
    *("balance", "seed", "steps", "rare", "seconds"),
    *(f"{split}_{figure}" for split in SPLITS for figure in FIGURES),
)
_RESULTS = Path(__file__).resolve().parent / "results/imbalance.csv"
_NEVER = 10**6


def imbalanced(source: PatchSource, seed: int) -> tuple[Rows, list[int]]:
    """Returns the labelled rows of a seed, and which classes are rare in them."""
    random = np.random.default_rng(seed)
    classes = len(source.class_names)
    rare = sorted(random.choice(classes, RARE_CLASSES, replace=False).tolist())
    rows = random.permutation(source.index.rows(TRAIN))
    labels = source.index.labels[rows]
    chosen = [
        rows[labels == label][: RARE if label in rare else COMMON]
        for label in range(classes)
    ]
    return np.sort(np.concatenate(chosen)), rare


def trial(data: Path, balance: Balance, seed: int, steps: int) -> dict[str, object]:
    """Trains one student and returns its line of the results."""
    torch.manual_seed(seed)
    since = time.process_time()
    source = MedmnistSource(data)
    rows, rare = imbalanced(source, seed)
    student = Backbone.create(LITE0, len(source.class_names), "packaged")
    normalise = Normalise(student.mean, student.std)
    settings = TrainingSettings(
        batch_size=BATCH_SIZE,
        learning_rate=RATE,
        balance=balance,
        seed=seed,
        accelerator="cpu",
        threads=1,
        checkpoint_every_steps=_NEVER,
    )
    fabric = make_fabric(settings)
    batches = TrainingBatches(
        source,
        labelled_rows=rows,
        unlabelled_rows=rows[:0],
        settings=batch_settings(fabric, settings, ViewRecipe.tissue(), VIEW_SIZE_PX),
    )
    epochs = round(steps / batches.steps_per_epoch)
    with tempfile.TemporaryDirectory() as folder:
        plan = TrainingRun(epochs, Path(folder) / "checkpoint.pt", "benchmark")
        distiller = Distiller(student, DistillationSettings())
        trainer = Trainer(fabric, distiller, normalise, batches, settings, plan)
        trainer.train(AbsentTeacher(), until_epoch=epochs, callback=NobodyWatches())
    line: dict[str, object] = {"balance": balance, "seed": seed, "steps": steps}
    line["rare"] = " ".join(map(str, rare))
    line["seconds"] = round(time.process_time() - since, 1)
    for name, split in SPLITS.items():
        line |= _measured(student, normalise, source, split, rare, name)
    return line


@torch.inference_mode()
def _measured(
    student: Backbone,
    normalise: Normalise,
    source: PatchSource,
    split: str,
    rare: Sequence[int],
    name: str,
) -> dict[str, object]:
    student.eval()
    rows = source.index.rows(split)
    said, truth = [], []
    for views, labels in evaluation_batches(source, rows, view_size_px=VIEW_SIZE_PX):
        said.append(student(normalise(views)).logits.argmax(dim=1))
        truth.append(labels)
    predicted, actual = torch.cat(said), torch.cat(truth)
    recalls = {
        label: float((predicted[actual == label] == label).float().mean())
        for label in sorted(set(actual.tolist()))
    }
    groups = {
        "rare_recall": [recalls[label] for label in recalls if label in rare],
        "common_recall": [recalls[label] for label in recalls if label not in rare],
        "macro_recall": list(recalls.values()),
    }
    return {f"{name}_{key}": round(float(np.mean(v)), 4) for key, v in groups.items()}


def table(lines: Sequence[Mapping[str, str]]) -> str:
    """Returns mean and standard deviation over seeds, and what is gained by pairs."""
    head = ["balance", *(f"{s} {f.replace('_', ' ')}" for s in SPLITS for f in FIGURES)]
    rows = [head, ["---"] * len(head)]
    keys = [f"{split}_{figure}" for split in SPLITS for figure in FIGURES]
    for balance in get_args(Balance):
        own = [line for line in lines if line["balance"] == balance]
        cells = [balance]
        for key in keys:
            values = np.array([float(line[key]) for line in own])
            cells.append(f"{values.mean():.3f} ± {values.std(ddof=1):.3f}")
        rows.append(cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Does the trials that are not there yet, and prints the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.imbalance", description=__doc__)
    parser.add_argument("--data", type=Path, metavar="PATHMNIST.NPZ", required=True)
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args(argv)
    results = CsvFile(options.results, COLUMNS, proof=COLUMNS[-1])
    done = {(line["balance"], line["seed"], line["steps"]) for line in results.lines()}
    for seed in range(options.seeds):
        for balance in get_args(Balance):
            if (balance, str(seed), str(options.steps)) not in done:
                line = trial(options.data, balance, seed, options.steps)
                results.add(line)
                print(line, flush=True)
    steps = str(options.steps)
    print(table([line for line in results.lines() if line["steps"] == steps]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
