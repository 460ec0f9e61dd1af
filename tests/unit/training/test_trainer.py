from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from moma_core.data.augment.recipe import ViewRecipe
from moma_core.data.loader import BatchSettings, TrainingBatches
from moma_core.data.patch import NO_LABEL, Patch, PatchIndex
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import MomaDistiller, StepLosses
from moma_core.errors import CheckpointError, StoppedError, TrainingError
from moma_core.models.backbone import Normalise
from moma_core.models.ema import MomentumTerms
from moma_core.teacher.local import AbsentTeacher, FrozenTeacher, MomentumTeacher
from moma_core.teacher.protocol import Teacher
from moma_core.training.devices import leave_ranks, make_fabric
from moma_core.training.settings import TrainingSettings
from moma_core.training.trainer import Trainer, TrainingRun
from tests.support.site.tiny import ConvEncoder

ROWS, EPOCHS = 26, 3
DISTILLATION = DistillationSettings.published().model_copy(
    update={"feature_length": 8, "attention_heads": 2, "bank_size": 32}
)


class Noise:
    """A source of random patches; every third one has a label."""

    class_names = ("a", "b", "c")

    @property
    def index(self) -> PatchIndex:
        labels = np.arange(ROWS, dtype=np.int16) % 3
        labels[np.arange(ROWS) % 3 != 0] = NO_LABEL
        zeros = np.zeros(ROWS)
        return PatchIndex(labels, zeros.astype(np.uint8), zeros.astype(np.int32))

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


MakeTeacher = Callable[[MomaDistiller, Normalise], Teacher]


def _frozen(distiller: MomaDistiller, normalise: Normalise) -> Teacher:
    torch.manual_seed(99)
    return FrozenTeacher(ConvEncoder(), normalise)


def _moving(distiller: MomaDistiller, normalise: Normalise) -> Teacher:
    torch.manual_seed(99)
    return MomentumTeacher(
        ConvEncoder(),
        distiller.student,
        normalise,
        MomentumTerms(0.9, class_order=tuple(distiller.class_order.tolist())),
        schedule="published",
    )


def _settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings(
        **{
            "batch_size": 6,
            "accelerator": "cpu",
            "checkpoint_every_steps": 1000,
            **changes,
        }
    )


def _trainer(
    folder: Path,
    make_teacher: MakeTeacher,
    *,
    fabric: Fabric | None = None,
    settings: TrainingSettings | None = None,
    run: str = "run",
) -> tuple[Trainer, Teacher]:
    settings = settings or _settings()
    fabric = fabric or make_fabric(settings)
    torch.manual_seed(settings.seed)
    source = Noise()
    batches = TrainingBatches(
        source,
        labelled_rows=source.index.rows("train", labelled=True),
        unlabelled_rows=source.index.rows("train", labelled=False),
        settings=BatchSettings(
            batch_size=settings.batch_size,
            labelled_share=0.5,
            seed=settings.seed,
            recipe=ViewRecipe.tissue(),
            view_size_px=16,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        ),
    )
    distiller = MomaDistiller(
        ConvEncoder(),
        DISTILLATION,
        teacher_length=8,
        teacher_classes=3,
        class_order=torch.arange(3),
    )
    normalise = Normalise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    plan = TrainingRun(EPOCHS, folder / "checkpoint.pt", run)
    trainer = Trainer(fabric, distiller, normalise, batches, settings, plan)
    teacher = make_teacher(distiller, normalise)
    moving = teacher.encoder if isinstance(teacher, MomentumTeacher) else None
    trainer.resume(ema_teacher=moving)
    return trainer, teacher


def _state(trainer: Trainer) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in trainer.distiller.state_dict().items()}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("make_teacher", [_frozen, _moving])
@pytest.mark.parametrize("stop_after", [1, 7, 9])
def test_a_stopped_run_resumes_bit_for_bit(
    tmp_path: Path, make_teacher: MakeTeacher, stop_after: int, precision: str
) -> None:
    settings = _settings(precision=precision)
    whole, teacher = _trainer(tmp_path / "whole", make_teacher, settings=settings)
    seen = Watching()
    whole.train(teacher, until_epoch=EPOCHS, callback=seen)
    expected = _state(whole)

    first, teacher = _trainer(tmp_path / "parts", make_teacher, settings=settings)
    before = Watching(stop_after)
    with pytest.raises(StoppedError):
        first.train(teacher, until_epoch=EPOCHS, callback=before)
    torch.manual_seed(12345)  # another process has other random numbers
    second, teacher = _trainer(tmp_path / "parts", make_teacher, settings=settings)
    after = Watching()
    second.train(teacher, until_epoch=EPOCHS, callback=after)

    assert before.losses + after.losses == seen.losses
    assert _state(second).keys() == expected.keys()
    for name, tensor in _state(second).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_killed_run_resumes_from_its_last_checkpoint(tmp_path: Path) -> None:
    settings = _settings(checkpoint_every_steps=4)
    whole, teacher = _trainer(tmp_path / "whole", _frozen, settings=settings)
    whole.train(teacher, until_epoch=EPOCHS, callback=Watching())

    class KilledError(Exception):
        """Stands for SIGKILL: nothing is saved on the way out."""

    class Deadly(Watching):
        def after_step(self, step: int, steps: int, losses: StepLosses) -> None:
            if step == 6:
                raise KilledError

    first, teacher = _trainer(tmp_path / "parts", _frozen, settings=settings)
    with pytest.raises(KilledError):
        first.train(teacher, until_epoch=EPOCHS, callback=Deadly())
    second, teacher = _trainer(tmp_path / "parts", _frozen, settings=settings)
    resumed_at = second.step
    second.train(teacher, until_epoch=EPOCHS, callback=Watching())

    assert resumed_at == 4
    for name, tensor in _state(second).items():
        assert torch.equal(tensor, _state(whole)[name]), name


def test_a_round_that_is_done_costs_no_step(tmp_path: Path) -> None:
    trainer, teacher = _trainer(tmp_path, _frozen)
    trainer.train(teacher, until_epoch=2, callback=Watching())
    again, seen = Watching(), trainer.step

    trainer.train(teacher, until_epoch=2, callback=again)

    assert again.losses == []
    assert trainer.step == seen


def test_other_settings_do_not_resume(tmp_path: Path) -> None:
    trainer, teacher = _trainer(tmp_path, _frozen)
    trainer.train(teacher, until_epoch=1, callback=Watching())

    with pytest.raises(CheckpointError, match="other settings"):
        _trainer(tmp_path, _frozen, run="another")


@pytest.mark.parametrize(
    ("poisoned", "after", "every", "message", "kept"),
    [
        ("bank.keys", 8, 7, "the loss is nan at step 12: 4 steps", 7),
        ("bank.keys", 14, 15, "bank.keys is not finite after step 15", 0),
        ("bank.keys", 8, 4, "bank.keys is not finite after step 8", 4),
        ("student.fc.weight", 18, 15, "fc.weight is not finite after step 18", 15),
    ],
)
def test_a_run_that_is_not_finite_any_more_ends_and_keeps_the_checkpoint(
    tmp_path: Path, poisoned: str, after: int, every: int, message: str, kept: int
) -> None:
    settings = _settings(checkpoint_every_steps=every, max_skipped_steps=3)
    trainer, teacher = _trainer(tmp_path, _frozen, settings=settings)

    class Poison(Watching):
        def after_step(self, step: int, steps: int, losses: StepLosses) -> None:
            if step == after:
                trainer.distiller.state_dict()[poisoned].fill_(float("nan"))

    with pytest.raises(TrainingError, match=message):
        trainer.train(teacher, until_epoch=EPOCHS, callback=Poison())

    again, _ = _trainer(tmp_path, _frozen, settings=settings)
    assert again.step == kept
    assert all(value.isfinite().all() for value in _state(again).values())


def test_weights_of_a_round_are_adopted_once(tmp_path: Path) -> None:
    trainer, _ = _trainer(tmp_path, _frozen)
    zeros = {
        name: torch.zeros_like(tensor)
        for name, tensor in trainer.distiller.student.state_dict().items()
    }
    trainer.load(zeros, 2, "w")
    with torch.no_grad():
        trainer.distiller.student.fc.weight.fill_(1)

    trainer.load(zeros, 2, "w")
    kept = trainer.distiller.student.fc.weight.clone()
    trainer.load(zeros, 3, "w")

    assert (kept == 1).all()
    assert (trainer.distiller.student.fc.weight == 0).all()


def test_what_was_missed_is_left_out_of_steps_and_of_the_schedule(
    tmp_path: Path,
) -> None:
    trainer, teacher = _trainer(tmp_path / "whole", _frozen)
    trainer.train(teacher, until_epoch=EPOCHS, callback=(whole := Watching()))
    late, teacher = _trainer(tmp_path / "late", _frozen)

    late.skip_to(EPOCHS - 1)
    late.skip_to(EPOCHS - 1)
    late.train(teacher, until_epoch=EPOCHS, callback=(watch := Watching()))

    assert len(watch.losses) * EPOCHS == len(whole.losses)
    assert late.step == len(watch.losses)
    assert _rate(late) == _rate(trainer)
    again, _ = _trainer(tmp_path / "late", _frozen)
    again.skip_to(EPOCHS)
    assert (again.unused_epochs, again.step) == (EPOCHS - 1, late.step)


def _rate(trainer: Trainer) -> float:
    return float(trainer._optimiser.param_groups[0]["lr"])


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    trainer, _ = _trainer(tmp_path, _frozen)

    with pytest.raises(TrainingError, match="do not fit"):
        trainer.load({"fc.weight": torch.zeros(1)}, 1, "w")


def test_a_baseline_trains_without_a_teacher(tmp_path: Path) -> None:
    trainer, _ = _trainer(tmp_path, _frozen)
    bank = trainer.distiller.bank.keys.clone()
    watch = Watching()

    trainer.train(AbsentTeacher(), until_epoch=1, callback=watch)

    assert watch.losses
    assert torch.equal(trainer.distiller.bank.keys, bank)


def _on_rank(fabric: Fabric, folder: Path) -> tuple[Any, Any, int]:
    torch.set_num_threads(1)
    found = _trained(fabric, folder)
    leave_ranks()
    return found


def _trained(fabric: Fabric, folder: Path) -> tuple[Any, Any, int]:
    settings = _settings(devices=2, batch_size=8)
    trainer, teacher = _trainer(folder, _frozen, fabric=fabric, settings=settings)
    trainer.train(teacher, until_epoch=1, callback=Watching())
    state = trainer.distiller
    weights = fabric.all_gather(state.student.fc.weight.detach())
    keys = fabric.all_gather(state.bank.keys)
    assert isinstance(weights, Tensor)
    assert isinstance(keys, Tensor)
    return weights.numpy(), keys.numpy(), int(state.bank.cursor)


@pytest.mark.timeout(180)
def test_two_ranks_share_gradients_and_the_bank(tmp_path: Path) -> None:
    fabric = make_fabric(_settings(devices=2))

    weights, keys, cursor = fabric.launch(_on_rank, tmp_path)

    assert np.array_equal(weights[0], weights[1])
    assert np.array_equal(keys[0], keys[1])
    assert cursor > 0
    assert (tmp_path / "checkpoint.pt").exists()
