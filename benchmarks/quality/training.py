"""How every row is trained: the project's own loop, and the same course for all."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from lightning_fabric import Fabric
from numpy import int64
from numpy.typing import NDArray

from moma_core.data.augment.recipe import RecipeName, recipe_named
from moma_core.data.loader import BatchSettings, TrainingBatches
from moma_core.data.patch import PatchSource
from moma_core.distillation.step import Distiller, StepLosses
from moma_core.federation.aggregation import aggregate
from moma_core.models.backbone import Backbone, Normalise
from moma_core.models.reused_classifier import ProjectedEncoder
from moma_core.teacher.protocol import Teacher
from moma_core.training.settings import TrainingSettings
from moma_core.training.trainer import Trainer, TrainingRun

VIEW_SIZE_PX = 48  # twenty-eight are too few for a network with a stride of 32
BATCH_SIZE = 32
_NEVER = 10**6

Rows = NDArray[int64]


class Share(NamedTuple):
    """One site's training patches.

    Args:
        labelled: (L,) rows that enter the cross-entropy.
        unlabelled: (U,) rows that only a teacher makes useful.
    """

    labelled: Rows
    unlabelled: Rows


@dataclass(frozen=True, slots=True)
class Course:
    """What is alike for all rows of a comparison.

    Args:
        steps: Of the optimiser, in each round.
        rate: Peak learning rate of the cosine.
        seed: Of order and views.
        recipe: Of the views.
        views: V of the teacher cache; 0: fresh ones.
        labelled_share: Of a batch, at least, where there are unlabelled patches.
        rounds: Of the federation; the cosine goes over all of them.
        batch_size: Patches a step.
        size_px: Side of the views.
        device: Where to train.
        ema_decay: Of the student that is kept; 0: the one that learns.
        mixup: Alpha of MixUp; 0: off.
        label_smoothing: Of the cross-entropy; 0: off.
        warmup_share: Of the steps, in which the rate rises; 0: off.
        workers: Processes that load patches.
    """

    steps: int
    rate: float
    seed: int
    recipe: RecipeName
    views: int
    labelled_share: float = 0.5
    rounds: int = 1
    batch_size: int = BATCH_SIZE
    size_px: int = VIEW_SIZE_PX
    device: Literal["cpu", "cuda"] = "cpu"
    ema_decay: float = 0.0
    mixup: float = 0.0
    label_smoothing: float = 0.0
    warmup_share: float = 0.0
    workers: int = 0


class NobodyWatches:
    """A watch that never stops a run."""

    def stopped(self) -> bool:
        """Never."""
        return False

    def after_step(self, step: int, steps: int, losses: StepLosses) -> None:
        """Looks away."""


def train(
    distiller: Distiller,
    teacher: Teacher,
    source: PatchSource,
    share: Share,
    course: Course,
) -> None:
    """Trains one student in place; arguments as `trainer_for`'s, and who answers."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(distiller, source, share, course, Path(folder))
        train_together([trainer], [teacher], course.rounds)


def train_together(
    trainers: Sequence[Trainer], teachers: Sequence[Teacher], rounds: int
) -> None:
    """Trains each site's student, and averages them after every round.

    Args:
        trainers: One a site; a single one is never averaged.
        teachers: Who answers each.
        rounds: How many.
    """
    for round_number in range(1, rounds + 1):
        for trainer, teacher in zip(trainers, teachers, strict=True):
            trainer.train(teacher, until_epoch=round_number, callback=NobodyWatches())
        if len(trainers) > 1:
            _average(trainers, round_number)


def _average(trainers: Sequence[Trainer], round_number: int) -> None:
    states = [trainer.distiller.student.state_dict() for trainer in trainers]
    updates = [
        {name: tensor.numpy() for name, tensor in state.items()} for state in states
    ]
    patches = [1] * len(trainers)  # the sites are of one size
    mean = aggregate("mean", updates, patches, start=None, max_patches=1)
    weights = {name: torch.from_numpy(array) for name, array in mean.items()}
    for trainer in trainers:
        trainer.load(weights, round_number, "")


def trainer_for(
    distiller: Distiller,
    source: PatchSource,
    share: Share,
    course: Course,
    folder: Path,
) -> Trainer:
    """Returns the project's own loop around a student.

    Args:
        distiller: The method around the student.
        source: The patches.
        share: Which of them.
        course: All else.
        folder: For the checkpoint.
    """
    settings = TrainingSettings(
        batch_size=course.batch_size,
        learning_rate=course.rate,
        ema_decay=course.ema_decay,
        mixup=course.mixup,
        label_smoothing=course.label_smoothing,
        warmup_steps=round(course.warmup_share * course.steps * course.rounds),
        balance="none",  # as when the tables were made; the classes are of one size
        seed=course.seed,
        accelerator=course.device,
        checkpoint_every_steps=_NEVER,
    )
    batches = TrainingBatches(
        source,
        labelled_rows=share.labelled,
        unlabelled_rows=share.unlabelled,
        settings=BatchSettings(
            batch_size=course.batch_size,
            labelled_share=course.labelled_share,
            seed=course.seed,
            recipe=recipe_named(course.recipe),
            view_size_px=course.size_px,
            workers=course.workers,
            views=course.views,
            steps_per_epoch=course.steps,
        ),
    )
    plan = TrainingRun(course.rounds, folder / "checkpoint.pt", "benchmark")
    fabric = Fabric(accelerator=course.device, devices=1)
    return Trainer(fabric, distiller, normaliser(distiller), batches, settings, plan)


def normaliser(distiller: Distiller) -> Normalise:
    """Returns what brings uint8 views to a student's range."""
    student = distiller.student
    body = student.body if isinstance(student, ProjectedEncoder) else student
    if not isinstance(body, Backbone):
        raise TypeError(f"a student is a backbone, not {type(body).__name__}")
    return Normalise(body.mean, body.std)
