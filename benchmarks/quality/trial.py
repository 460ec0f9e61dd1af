"""One trial: a teacher, its students, a method, and what a student can do then."""

import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.quality.moving import moving_teacher
from benchmarks.quality.rows import TEACHER, Row
from benchmarks.quality.students import fingerprint, make_student, settings_of
from benchmarks.quality.teachers import CountedTeacher, Memory, memory_for
from benchmarks.quality.tissue import Tissue, tissue_for
from benchmarks.quality.training import (
    BATCH_SIZE,
    VIEW_SIZE_PX,
    Course,
    Rows,
    normaliser,
    train_together,
    trainer_for,
)
from benchmarks.quality.trials import ROWS, Trial
from moma_core.data.loader import evaluation_batches
from moma_core.distillation.methods.names import need_of, uses_outputs
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import Distiller
from moma_core.evaluation.metrics import measure
from moma_core.models.ema import MomentumTerms
from moma_core.teacher.local import AbsentTeacher
from moma_core.teacher.protocol import Teacher

FIGURES = ("accuracy", "macro_f1", "kappa", "ece")
FEDERATED_ROUNDS = 5


def run_trial(trial: Trial, data: Path, work: Path) -> dict[str, object]:
    """Trains and measures; returns one line of the results.

    Args:
        trial: What.
        data: The colon set.
        work: Where teachers are kept.
    """
    torch.set_num_threads(1)
    row = ROWS[trial.row]
    counts = (trial.labels, trial.unlabelled)
    tissue = tissue_for(trial.scenario, data, trial.seed, counts, row.federation)
    maps = need_of(row.method) == "maps"
    memory = memory_for(trial.scenario, trial.seed, data, work, maps=maps)

    since = time.process_time()
    if row is TEACHER:
        teacher_alone = Distiller(memory.encoder, DistillationSettings())
        return _line(trial, tissue, teacher_alone, 0, since)
    students = [
        make_student(trial, row, tissue, share, memory.encoder)
        for share in tissue.shares
    ]
    teachers = [teacher_for_row(row, memory, student) for student in students]
    _train(trial, row, tissue, students, teachers)
    answers = _answers(trial, row, teachers)
    return _line(trial, tissue, students[0], answers, since)


def _line(
    trial: Trial, tissue: Tissue, student: Distiller, answers: int, since: float
) -> dict[str, object]:
    line: dict[str, object] = {
        "key": trial.key,
        "settings": fingerprint(trial),
        **asdict(trial),
    }
    line |= {"answers": answers}
    line |= {"seconds": round(time.process_time() - since, 1)}
    splits = {"validation": tissue.validation}
    if trial.stage == "final":
        splits["unseen"] = tissue.unseen
    for split, rows in splits.items():
        line |= measured(student, tissue, split, rows)
    return line


def teacher_for_row(row: Row, memory: Memory, student: Distiller) -> Teacher:
    """Returns who answers a student, as its row wants it."""
    if not uses_outputs(row.method):
        return AbsentTeacher()
    if row.moving is None:
        return CountedTeacher(memory)
    order = getattr(student, "class_order", None)
    terms = MomentumTerms(
        settings_of(row, 1.0).momentum,
        row.moving.batch_norm,
        None if order is None else tuple(order.tolist()),
    )
    return moving_teacher(memory.encoder, student.student, terms, row.moving)


def _answers(trial: Trial, row: Row, teachers: list[Teacher]) -> int:
    """Returns what the sites had to ask: views, or passes of a teacher that moves."""
    if row.moving is not None:
        passes = 2 if row.moving.schedule == "published" else 1
        return passes * trial.steps * BATCH_SIZE
    return sum(one.answers for one in teachers if isinstance(one, CountedTeacher))


def _train(
    trial: Trial,
    row: Row,
    tissue: Tissue,
    students: list[Distiller],
    teachers: list[Teacher],
) -> None:
    rounds = FEDERATED_ROUNDS if row.federation == "fedavg" else 1
    course = Course(
        steps=trial.steps // rounds,
        rate=trial.rate,
        seed=trial.seed,
        recipe=tissue.recipe,
        views=row.views if row.moving is None else 0,
        labelled_share=row.labelled_share,
        rounds=rounds,
        **row.training,
    )
    asks = uses_outputs(row.method)
    with tempfile.TemporaryDirectory() as folder:
        trainers = []
        for place, student in enumerate(students):
            share = tissue.shares[place]
            if not asks:
                share = share._replace(unlabelled=share.unlabelled[:0])
            own = Path(folder) / str(place)
            trainers.append(trainer_for(student, tissue.source, share, course, own))
        train_together(trainers, teachers, rounds)
        # what is measured is what a site keeps: the moving average, where there is one
        students[0].student = trainers[0].student


@torch.inference_mode()
def measured(
    distiller: Distiller, tissue: Tissue, split: str, rows: Rows
) -> dict[str, object]:
    """Returns a student's figures on some rows, named with their split."""
    normalise, student = normaliser(distiller), distiller.student.eval()
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    for views, label in evaluation_batches(
        tissue.source, rows, view_size_px=VIEW_SIZE_PX, batch_size=100
    ):
        logits.append(student(normalise(views)).logits)
        labels.append(label)
    said, truth = torch.cat(logits), torch.cat(labels)
    # quadratic kappa; the tables show it where the classes are ordered
    found = measure(
        said, truth, tissue.source.class_names, is_ordered=True, has_intervals=False
    ).values()
    line: dict[str, object] = {
        f"{split}_{name}": round(found[name], 5) for name in FIGURES
    }
    line[f"{split}_predicted"] = _digits(said.argmax(dim=1))
    line[f"{split}_truth"] = _digits(truth)
    return line


def _digits(classes: Tensor) -> str:
    """Ten classes at most, one digit an image: what a bootstrap needs later."""
    return "".join(map(str, classes.tolist()))
