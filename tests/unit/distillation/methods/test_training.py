"""Every method through the real training loop."""

from pathlib import Path

import numpy as np
import pytest
import torch

from moma_core.data.augment.recipe import ViewRecipe
from moma_core.data.loader import BatchSettings, TrainingBatches
from moma_core.data.patch import NO_LABEL, Patch, PatchIndex
from moma_core.distillation.methods.names import METHODS, Method, uses_outputs
from moma_core.distillation.methods.registry import (
    DistillationContext,
    make_distiller,
)
from moma_core.distillation.methods.settings import BaselineSettings
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import Distiller, StepLosses
from moma_core.models.backbone import Normalise
from moma_core.teacher.local import AbsentTeacher, FrozenTeacher
from moma_core.teacher.protocol import Teacher
from moma_core.training.devices import make_fabric
from moma_core.training.settings import TrainingSettings
from moma_core.training.trainer import Trainer, TrainingRun
from tests.support.site.tiny import TwoStageEncoder

PATCHES, EPOCHS, BATCH, SIDE_PX = 24, 40, 6, 16


class Stripes:
    """A source of random patches whose classes differ in brightness."""

    class_names = ("a", "b", "c")

    @property
    def index(self) -> PatchIndex:
        labels = np.arange(PATCHES, dtype=np.int16) % 3
        labels[PATCHES // 2 :] = NO_LABEL
        zeros = np.zeros(PATCHES)
        return PatchIndex(labels, zeros.astype(np.uint8), zeros.astype(np.int32))

    def read(self, row: int) -> Patch:
        noise = np.random.default_rng(row).integers(0, 100, (SIDE_PX, SIDE_PX, 3))
        pixels = (noise + 70 * (row % 3)).astype(np.uint8)
        return Patch(pixels, None, None, None, None)


class Watching:
    """Remembers a step's total; never stops."""

    def __init__(self) -> None:
        self.totals: list[float] = []

    def stopped(self) -> bool:
        return False

    def after_step(self, step: int, steps: int, losses: StepLosses) -> None:
        self.totals.append(float(losses.total))


def _trainer(folder: Path, method: Method) -> tuple[Trainer, Teacher]:
    training = TrainingSettings(batch_size=BATCH, accelerator="cpu", warmup_steps=0)
    source, fabric = Stripes(), make_fabric(training)
    labelled, unlabelled = (
        source.index.rows("train", labelled=known) for known in (True, False)
    )
    batches = TrainingBatches(
        source,
        labelled_rows=labelled,
        unlabelled_rows=unlabelled,
        settings=BatchSettings(
            batch_size=BATCH,
            labelled_share=0.5,
            seed=0,
            recipe=ViewRecipe.geometry_only(),
            view_size_px=SIDE_PX,
        ),
    )
    torch.manual_seed(1)
    network = TwoStageEncoder(length=12 if method != "ft" else 8)
    distiller = _distiller(method, network)
    normalise = Normalise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    plan = TrainingRun(EPOCHS, folder / "checkpoint.pt", method)
    trainer = Trainer(fabric, distiller, normalise, batches, training, plan)
    if not uses_outputs(method):
        return trainer, AbsentTeacher()
    return trainer, FrozenTeacher(network, normalise, maps=distiller.needs_maps)


def _distiller(method: Method, network: TwoStageEncoder) -> Distiller:
    context = DistillationContext(
        # A bank that starts empty makes the contrast harder at first, not easier.
        settings=DistillationSettings(
            feature_length=8, bank_size=32, bank_start="random", head="mlp"
        ),
        baseline_settings=BaselineSettings(crd_negatives=8),
        teacher_length=network.embedding_length,
        teacher_classes=3,
        class_order=torch.arange(3),
        teacher=network,
        training_rows=torch.arange(PATCHES),
        batch_size=BATCH,
        view_size_px=SIDE_PX,
        seed=0,
    )
    return make_distiller(method, TwoStageEncoder(), context)


@pytest.mark.parametrize("method", METHODS)
def test_a_short_run_lowers_a_methods_own_loss(tmp_path: Path, method: Method) -> None:
    trainer, teacher = _trainer(tmp_path, method)
    watch = Watching()

    trainer.train(teacher, until_epoch=EPOCHS, callback=watch)

    assert np.mean(watch.totals[-16:]) < 0.95 * np.mean(watch.totals[:16])


@pytest.mark.parametrize("method", ["crd", "semckd", "simkd"])
def test_a_run_in_two_parts_equals_one_in_one(tmp_path: Path, method: Method) -> None:
    whole, teacher = _trainer(tmp_path / "whole", method)
    whole.train(teacher, until_epoch=4, callback=Watching())

    first, teacher = _trainer(tmp_path / "parts", method)
    first.train(teacher, until_epoch=2, callback=Watching())
    second, teacher = _trainer(tmp_path / "parts", method)
    second.resume()
    second.train(teacher, until_epoch=4, callback=Watching())

    expected = whole.distiller.state_dict()
    torch.testing.assert_close(dict(second.distiller.state_dict()), dict(expected))
