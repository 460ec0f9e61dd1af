"""A run on 24 patches of unlike classes, that trains in a second."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from moma_core.data.augment.recipe import ViewRecipe
from moma_core.data.loader import TrainingBatches
from moma_core.data.patch import Patch, PatchIndex
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import Distiller, MomaDistiller, StepLosses
from moma_core.models.backbone import Normalise
from moma_core.models.encoder import Encoder
from moma_core.teacher.local import AbsentTeacher, FrozenTeacher
from moma_core.teacher.protocol import Teacher
from moma_core.training.devices import batch_settings, make_fabric
from moma_core.training.settings import TrainingSettings
from moma_core.training.trainer import Trainer, TrainingRun
from tests.support.site.tiny import ConvEncoder

EPOCHS, STEPS_PER_EPOCH = 3, 4
_NORMALISE = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_DISTILLATION = DistillationSettings.published().model_copy(
    update={"feature_length": 8, "attention_heads": 2, "bank_size": 32}
)


class Imbalanced:
    """Random patches, 18 of the first class, 4 of the second, 2 of the third."""

    class_names = ("a", "b", "c")
    index = PatchIndex(
        np.repeat(np.arange(3, dtype=np.int16), (18, 4, 2)),
        np.zeros(24, np.uint8),
        np.zeros(24, np.int32),
    )

    def read(self, row: int) -> Patch:
        pixels: NDArray[np.uint8] = np.random.default_rng(row).integers(
            0, 256, (16, 16, 3), dtype=np.uint8
        )
        return Patch(pixels, None, None, None, None)


class Watching:
    """Remembers losses; asks to stop after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.losses: list[float] = []
        self._stop_after = stop_after
        self._step = 0

    def stopped(self) -> bool:
        return self._step == self._stop_after

    def after_step(self, step: int, steps: int, losses: StepLosses) -> None:
        self._step = step
        self.losses.append(float(losses.total))


def run_settings(**changes: Any) -> TrainingSettings:
    fixed = {"batch_size": 6, "accelerator": "cpu", "checkpoint_every_steps": 1000}
    return TrainingSettings(**{**fixed, **changes})


def make_trainer(
    folder: Path,
    settings: TrainingSettings,
    student: Encoder | None = None,
    *,
    distils: bool = True,
) -> tuple[Trainer, Teacher]:
    fabric: Fabric = make_fabric(settings)
    torch.manual_seed(settings.seed)
    source = Imbalanced()
    batches = TrainingBatches(
        source,
        labelled_rows=source.index.rows("train", labelled=True),
        unlabelled_rows=source.index.rows("train", labelled=False),
        settings=batch_settings(fabric, settings, ViewRecipe.tissue(), 16),
    )
    student = student or ConvEncoder()
    distiller = Distiller(student, _DISTILLATION)
    if distils:
        distiller = MomaDistiller(
            student,
            _DISTILLATION,
            teacher_length=8,
            teacher_classes=3,
            class_order=torch.arange(3),
        )
    plan = TrainingRun(EPOCHS, folder / "checkpoint.pt", "run", "former")
    trainer = Trainer(
        fabric, distiller, Normalise(*_NORMALISE), batches, settings, plan
    )
    torch.manual_seed(99)
    teacher: Teacher = AbsentTeacher()
    if distils:
        teacher = FrozenTeacher(ConvEncoder(), Normalise(*_NORMALISE))
    trainer.resume()
    return trainer, teacher
