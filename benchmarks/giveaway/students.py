"""How like the teacher a student becomes that sees nothing but answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.giveaway.linear import imagenet_features, linear_student
from benchmarks.giveaway.teachers import (
    SEEDS,
    Answers,
    MessageContext,
    answers_of,
    teacher_answers,
    teacher_memory,
)
from benchmarks.quality.teachers import ARCHITECTURE, CountedTeacher
from benchmarks.quality.tissue import colon, colon_parts
from benchmarks.quality.training import Course, Rows, Share, train
from moma_core.data.patch import UNSEEN, VALIDATION, PatchSource
from moma_core.distillation.losses import soft_target_loss
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import Distiller, ExtraLosses
from moma_core.models.backbone import Backbone, create_backbone
from moma_core.models.encoder import Features
from moma_core.models.settings import ModelSection
from moma_core.teacher.local import AbsentTeacher
from moma_core.teacher.protocol import TeacherOutput

Student = Literal["linear", "whole"]
"""A linear layer over an ImageNet encoder, or all of such a network is trained."""
Output = Literal["embedding + logits", "logits", "top-1", "own labels"]
Coverage = Literal["all tissues", "three tissues"]

ANSWERED: tuple[Output, ...] = ("embedding + logits", "logits", "top-1")
NOBODY_ASKED: Output = "own labels"
BUDGETS, CONFINED_BUDGET = (25, 100, 355), 100
_CONFINED_TO = 3
_STEPS, _RATE = 100, 0.02


@dataclass(frozen=True, slots=True)
class StudentTrial:
    """One student.

    Args:
        student: What of it learns.
        output: What it learns from; `own labels`: the truth, and nobody is asked.
        coverage: Which patches it has: of all nine tissues, or of three.
        patches: How many, each asked about in one view.
        seed: Of teacher, patches and student.
    """

    student: Student
    output: Output
    coverage: Coverage
    patches: int
    seed: int

    @property
    def key(self) -> str:
        """Names the trial in the results."""
        kind = f"{self.student}/{self.output}/{self.coverage}"
        return f"student/{kind}/{self.patches}/{self.seed}"


def student_trials() -> Iterator[StudentTrial]:
    """Yields them, what matters most first; seed by seed, each with its teacher."""
    plans: tuple[tuple[Coverage, int], ...] = (
        ("all tissues", BUDGETS[-1]),
        ("all tissues", CONFINED_BUDGET),
        ("three tissues", CONFINED_BUDGET),
        *(("all tissues", budget) for budget in BUDGETS[:-1]),
    )
    kinds: tuple[Student, ...] = ("linear", "whole")
    for student in kinds:
        for coverage, patches in dict.fromkeys(plans):
            for seed in SEEDS:
                for output in (*ANSWERED, NOBODY_ASKED):
                    yield StudentTrial(student, output, coverage, patches, seed)


class Copyist(Distiller):
    """Learns the teacher's answers and no label.

    Args:
        student: Its parameters learn.
        output: What the teacher lets out.
    """

    distils = True

    def __init__(self, student: Backbone, output: Output) -> None:
        super().__init__(student, DistillationSettings(contrastive_weight=1.0))
        self._output = output

    def extra_losses(
        self,
        features: Features,
        labels: Tensor,
        answer: TeacherOutput,
        rows: Tensor | None,
    ) -> ExtraLosses:
        """Returns one minus the embeddings' cosine, and the loss of the logits."""
        direction = features.logits.new_zeros(())
        if self._output == "top-1":
            said = F.cross_entropy(features.logits, answer.logits.argmax(dim=1))
        else:
            temperature = self.settings.kl_temperature
            said = soft_target_loss(features.logits, answer.logits, temperature)
        if self._output == "embedding + logits":
            cosine = F.cosine_similarity(features.embedding, answer.embedding)
            direction = (1 - cosine).mean()
        return ExtraLosses(direction, said, None)


def run_student(trial: StudentTrial, place: MessageContext) -> dict[str, object]:
    """Trains a student and holds it against its teacher on patches neither saw."""
    source = colon(place.data)
    rows = _queried(source, trial)
    held_out = np.concatenate([source.index.rows(s) for s in (VALIDATION, UNSEEN)])
    asked = torch.from_numpy(held_out)
    learn = _linear if trial.student == "linear" else _whole
    student, queries = learn(trial, place, rows, asked)
    return {
        "student": trial.student,
        "output": trial.output,
        "coverage": trial.coverage,
        "patches": len(rows),
        "queries": queries,
        **likeness(student, teacher_answers(place, trial.seed).of(asked)),
    }


def _linear(
    trial: StudentTrial, place: MessageContext, rows: Rows, asked: Tensor
) -> tuple[Answers, int]:
    """Returns what a linear student says, and of how many views it had the answer."""
    features, answers = imagenet_features(place), teacher_answers(place, trial.seed)
    known = torch.from_numpy(rows)
    embedding, logits = linear_student(
        features[known], answers.of(known), features[asked], trial.output
    )
    if embedding is None:
        embedding = torch.empty(len(asked), 0)
    queries = 0 if trial.output == NOBODY_ASKED else len(rows)
    return Answers(embedding, logits, answers.labels[asked]), queries


def _whole(
    trial: StudentTrial, place: MessageContext, rows: Rows, asked: Tensor
) -> tuple[Answers, int]:
    """Returns the same of a student whose whole network was trained."""
    source, queries = colon(place.data), 0
    torch.manual_seed(trial.seed)
    section = ModelSection(architecture=ARCHITECTURE, weights="packaged")
    student = create_backbone(section, len(source.class_names))
    course = Course(_STEPS, _RATE, trial.seed, "tissue", views=1)
    if trial.output == NOBODY_ASKED:
        step = Distiller(student, DistillationSettings())
        train(step, AbsentTeacher(), source, Share(rows, rows[:0]), course)
    else:
        teacher = CountedTeacher(teacher_memory(place, trial.seed))
        copyist = Copyist(student, trial.output)
        train(copyist, teacher, source, Share(rows[:0], rows), course)
        queries = teacher.answers
    return answers_of(student, place.data, asked), queries


def _queried(source: PatchSource, trial: StudentTrial) -> Rows:
    """Returns the student's patches: never the teacher's, never the held-out ones."""
    _, pool = colon_parts(source, trial.seed)
    if trial.coverage == "three tissues":
        order = np.random.default_rng(trial.seed).permutation(len(source.class_names))
        pool = pool[np.isin(source.index.labels[pool], order[:_CONFINED_TO])]
    return pool[: trial.patches]


def likeness(student: Answers, teacher: Answers) -> dict[str, object]:
    """Returns how like a student's answers are to the teacher's.

    `agreement` of the top classes, `kl` from the teacher's probabilities in nats,
    `l1` between probabilities in [0, 2], `cosine` between embeddings, the student's
    own `accuracy`, and for each patch whether the top classes agree, 1 or 0. The
    cosine of a student that has no embedding is not a number.
    """
    own, other = (
        answers.logits.double().log_softmax(dim=1) for answers in (student, teacher)
    )
    agrees = own.argmax(dim=1) == other.argmax(dim=1)
    divergence = F.kl_div(own, other, reduction="batchmean", log_target=True)
    distance = (own.exp() - other.exp()).abs().sum(dim=1).mean()
    cosine = torch.tensor(float("nan"))
    if student.embedding.shape == teacher.embedding.shape:
        cosine = F.cosine_similarity(student.embedding, teacher.embedding).mean()
    correct = own.argmax(dim=1) == student.labels
    figures = {
        "agreement": agrees.double().mean(),
        "kl": divergence,
        "l1": distance,
        "cosine": cosine,
        "accuracy": correct.double().mean(),
    }
    rounded: dict[str, object] = {
        name: round(float(value), 5) for name, value in figures.items()
    }
    return rounded | {"agrees": "".join(map(str, agrees.int().tolist()))}
