"""Does the trials of a study: a teacher, a student, and what it can do then."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.teachers import CountedTeacher, Memory
from benchmarks.quality.training import (
    Course,
    NobodyWatches,
    Rows,
    normaliser,
    trainer_for,
)
from benchmarks.study.patches import Division, divide, groups_of
from benchmarks.study.preset import Study
from benchmarks.study.teachers import make_teacher, order_of
from benchmarks.study.trials import (
    REFERENCES,
    StudyTrial,
    method_of,
    needs_maps,
    study_fingerprint,
)
from moma_core.data.loader import evaluation_batches
from moma_core.data.sources.factory import open_source
from moma_core.distillation.methods.context import DistillationContext
from moma_core.distillation.methods.names import uses_outputs
from moma_core.distillation.methods.registry import make_distiller
from moma_core.distillation.methods.settings import BaselineSettings
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import Distiller
from moma_core.errors import DataError
from moma_core.evaluation.metrics import measure
from moma_core.models.backbone import Normalise, create_backbone
from moma_core.models.encoder import Encoder
from moma_core.models.probe import fit_probe
from moma_core.teacher.local import AbsentTeacher
from moma_core.teacher.protocol import Teacher

FIGURES = ("accuracy", "macro_f1", "kappa_quadratic", "ece")
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""A letter a class in the results' file."""

_CRD_NEGATIVES, _BANK_SIZE = 256, 4096
_HIDDEN = 256
_PIECES = 5  # the last fifth of the steps is where a student is evaluated
_LAST_DIGITS = 1e-6

Device = Literal["cpu", "cuda"]


class _Said(NamedTuple):
    """What a network says of a split: one (n, C) for each evaluation."""

    logits: list[Tensor]
    rows: Rows


class Bench:
    """A study on its patches.

    Args:
        study: What is done.
        work: Where teachers are kept.
        device: Where students and teachers compute.
        workers: Processes that load patches.
    """

    def __init__(
        self, study: Study, work: Path, device: Device = "cpu", workers: int = 0
    ) -> None:
        self._study, self._work, self._device = study, work, device
        self._workers = workers
        self._source = open_source(study.data)
        if len(self._source.class_names) > len(DIGITS):
            raise ValueError(f"more than {len(DIGITS)} classes")
        self._division = lru_cache(maxsize=4)(self._divided)
        self._memory = lru_cache(maxsize=2)(self._asked)

    def run(self, trial: StudyTrial) -> dict[str, object]:
        """Trains and measures; returns one line of the results."""
        since = time.perf_counter()
        division = self._division(trial.seed)
        memory = self._memory(
            trial.scenario, trial.seed, needs_maps(trial.row, self._study)
        )
        splits = {"validation": division.validation}
        if trial.stage == "final" and len(division.unseen):
            splits["unseen"] = division.unseen
        answers = 0
        if trial.row in REFERENCES:
            said = self._of_teacher(trial, division, memory, splits)
        else:
            said, answers = self._of_student(trial, division, memory, splits)
        line: dict[str, object] = {
            "key": trial.key,
            "settings": study_fingerprint(self._study, trial),
            **asdict(trial),
            "answers": answers,
            "seconds": round(time.perf_counter() - since, 1),
        }
        for split, found in said.items():
            line |= self._figures(split, found)
        return line

    def _divided(self, seed: int) -> Division:
        return divide(self._study, self._source, seed)

    def _asked(self, scenario: str, seed: int, maps: bool) -> Memory:
        teacher = make_teacher(
            self._study,
            scenario,
            self._division(seed),
            self._course(seed),
            self._work,
        )
        return Memory(teacher, maps=maps, device=self._device)

    def _course(self, seed: int) -> Course:
        study = self._study
        pieces = _PIECES * study.evaluations if study.evaluations > 1 else 1
        return Course(
            steps=max(1, study.steps // pieces),
            rate=study.rate,
            seed=seed,
            recipe="tissue",
            views=study.views,
            rounds=pieces,
            batch_size=study.batch_size,
            size_px=study.size_px,
            device=self._device,
            workers=self._workers,
        )

    def _of_student(
        self,
        trial: StudyTrial,
        division: Division,
        memory: Memory,
        splits: dict[str, Rows],
    ) -> tuple[dict[str, _Said], int]:
        distiller = self._distiller(trial, division, memory)
        asks = uses_outputs(method_of(trial.row, self._study))
        teacher: Teacher = CountedTeacher(memory) if asks else AbsentTeacher()
        variant = self._study.variants.get(trial.row)
        course = replace(
            self._course(trial.seed),
            rate=trial.rate,
            views=self._study.views if asks else 0,
            **({} if variant is None else variant.course),  # type: ignore[arg-type]
        )
        share = division.share
        if not asks:
            share = share._replace(unlabelled=share.unlabelled[:0])
        said = {split: _Said([], rows) for split, rows in splits.items()}
        with tempfile.TemporaryDirectory() as folder:
            trainer = trainer_for(
                distiller, division.source, share, course, Path(folder)
            )
            first = course.rounds - self._study.evaluations + 1
            for piece in range(first, course.rounds + 1):
                trainer.train(teacher, until_epoch=piece, callback=NobodyWatches())
                normalise = normaliser(distiller).to(self._device)
                for found in said.values():
                    logits = self._look(trainer.student.eval(), normalise, found.rows)
                    found.logits.append(logits.logits)
        asked = teacher.answers if isinstance(teacher, CountedTeacher) else 0
        return said, asked

    def _distiller(
        self, trial: StudyTrial, division: Division, memory: Memory
    ) -> Distiller:
        study, classes = self._study, len(division.source.class_names)
        torch.manual_seed(trial.seed)
        student = create_backbone(study.students[trial.student], classes)
        _disturb(student, trial.repeat)
        variant, encoder = study.variants.get(trial.row), memory.encoder
        values: dict[str, Any] = {
            **DistillationSettings().model_dump(),
            "bank_size": _BANK_SIZE,
            "contrastive_weight": trial.scale,
            "distillation_weight": trial.scale,
            **({} if variant is None else variant.changes),
        }
        context = DistillationContext(
            settings=DistillationSettings(**values),
            baseline_settings=BaselineSettings(
                weight_scale=trial.scale, crd_negatives=_CRD_NEGATIVES
            ),
            teacher_length=encoder.embedding_length,
            teacher_classes=encoder.classifier.out_features,  # type: ignore[arg-type]
            class_order=order_of(
                study.teachers[trial.scenario], division.source.class_names
            ),
            teacher=encoder,
            training_rows=torch.from_numpy(np.concatenate(division.share)),
            batch_size=study.batch_size,
            view_size_px=study.size_px,
            seed=trial.seed,
        )
        return make_distiller(method_of(trial.row, study), student, context)

    def _of_teacher(
        self,
        trial: StudyTrial,
        division: Division,
        memory: Memory,
        splits: dict[str, Rows],
    ) -> dict[str, _Said]:
        """Measures the teacher itself, or what a probe makes of its embeddings."""
        encoder = memory.encoder
        normalise = Normalise(encoder.mean, encoder.std).to(self._device)
        looks = {
            split: self._look(encoder, normalise, rows)
            for split, rows in splits.items()
        }
        if trial.row == "teacher":
            plan = self._study.teachers[trial.scenario]
            order = order_of(plan, division.source.class_names)
            if order is None:
                return {}
            return {
                split: _Said([look.logits[:, order]], splits[split])
                for split, look in looks.items()
            }
        labels = torch.from_numpy(division.source.index.labels.astype(np.int64))
        own = self._look(encoder, normalise, division.share.labelled)
        probe = fit_probe(
            (own.embedding, labels[division.share.labelled]),
            (looks["validation"].embedding, labels[division.validation]),
            classes=len(division.source.class_names),
            hidden=_HIDDEN if trial.row == "head" else 0,
            seed=trial.seed,
        )
        return {
            split: _Said([probe(look.embedding)], splits[split])
            for split, look in looks.items()
        }

    @torch.inference_mode()
    def _look(self, network: Encoder, normalise: Normalise, rows: Rows) -> "_Look":
        embeddings, logits = list[Tensor](), list[Tensor]()
        for views, _ in evaluation_batches(
            self._source, rows, view_size_px=self._study.size_px, batch_size=64
        ):
            found = network(normalise(views.to(self._device)))
            embeddings.append(found.embedding.cpu())
            logits.append(found.logits.cpu())
        look = _Look(torch.cat(embeddings).clone(), torch.cat(logits).clone())
        if len(look.logits) != len(rows):
            unread = len(rows) - len(look.logits)
            raise DataError(
                f"{unread} of {len(rows)} patches cannot be read: take them out"
            )
        return look

    def _figures(self, split: str, said: _Said) -> dict[str, object]:
        index = self._source.index
        truth = torch.from_numpy(index.labels[said.rows].astype(np.int64))
        found = [
            measure(
                logits,
                truth,
                self._source.class_names,
                is_ordered=True,
                has_intervals=False,
            ).values()
            for logits in said.logits
        ]
        line: dict[str, object] = {
            f"{split}_{name}": _mean([each.get(name) for each in found])
            for name in FIGURES
        }
        predicted = "|".join(letters(each.argmax(1).tolist()) for each in said.logits)
        line[f"{split}_predicted"] = predicted
        line[f"{split}_truth"] = letters(truth.tolist())
        groups = groups_of(index, said.rows).tolist()
        line[f"{split}_groups"] = " ".join(map(str, groups))
        return line


class _Look(NamedTuple):
    embedding: Tensor
    logits: Tensor


def letters(classes: Sequence[int]) -> str:
    """Returns a letter a class."""
    return "".join(DIGITS[each] for each in classes)


def _mean(values: Sequence[float | None]) -> float | str:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 5) if known else ""


def _disturb(student: Encoder, repeat: int) -> None:
    """Moves a start by no more than another run's arithmetic does."""
    if not repeat:
        return
    numbers = torch.Generator().manual_seed(repeat)
    with torch.no_grad():
        for weight in student.classifier.parameters():
            noise = torch.randn(weight.shape, generator=numbers)
            weight.mul_(1 + _LAST_DIGITS * noise)
