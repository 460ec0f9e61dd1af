"""What `training` may ask for beyond the published loop, and that it resumes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from moma_core.data.augment.recipe import ViewRecipe
from moma_core.data.loader import TrainingBatches
from moma_core.data.patch import Patch, PatchIndex
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import Distiller, MomaDistiller, StepLosses
from moma_core.errors import StoppedError, TrainingError
from moma_core.models.backbone import Normalise
from moma_core.models.encoder import Encoder, Features
from moma_core.teacher.local import AbsentTeacher, FrozenTeacher
from moma_core.teacher.protocol import Teacher
from moma_core.training.devices import batch_settings, make_fabric
from moma_core.training.settings import TrainingSettings
from moma_core.training.trainer import Trainer, TrainingRun
from tests.support.site.tiny import ConvEncoder

EPOCHS, STEPS_PER_EPOCH = 3, 4
NORMALISE = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
DISTILLATION = DistillationSettings.published().model_copy(
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


def _settings(**changes: Any) -> TrainingSettings:
    fixed = {"batch_size": 6, "accelerator": "cpu", "checkpoint_every_steps": 1000}
    return TrainingSettings(**{**fixed, **changes})


def _trainer(
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
    distiller = Distiller(student, DISTILLATION)
    if distils:
        distiller = MomaDistiller(
            student,
            DISTILLATION,
            teacher_length=8,
            teacher_classes=3,
            class_order=torch.arange(3),
        )
    plan = TrainingRun(EPOCHS, folder / "checkpoint.pt", "run")
    trainer = Trainer(fabric, distiller, Normalise(*NORMALISE), batches, settings, plan)
    torch.manual_seed(99)
    teacher: Teacher = AbsentTeacher()
    if distils:
        teacher = FrozenTeacher(ConvEncoder(), Normalise(*NORMALISE))
    trainer.resume()
    return trainer, teacher


def _norm(student: Encoder) -> float:
    weights = student.state_dict().values()
    return float(sum(weight.abs().sum() for weight in weights))


@pytest.mark.parametrize(
    "changes",
    [
        {"optimiser": "adamw", "learning_rate": 0.001, "warmup_steps": 3},
        {"head_learning_rate": 0.2, "ema_decay": 0.9},
        {"balance": "weights", "label_smoothing": 0.1},
        {"balance": "sampler", "micro_batch_size": 2},
        {"mixup": 0.4, "keep": "best"},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_a_stopped_run_resumes_bit_for_bit_with_every_option(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = _settings(**changes)
    distils = "mixup" not in changes
    whole, teacher = _trainer(tmp_path / "whole", settings, distils=distils)
    seen = Watching()
    whole.train(teacher, until_epoch=EPOCHS, callback=seen, measure=_norm)

    first, teacher = _trainer(tmp_path / "parts", settings, distils=distils)
    before = Watching(stop_after=STEPS_PER_EPOCH)  # just as an epoch was measured
    with pytest.raises(StoppedError):
        first.train(teacher, until_epoch=EPOCHS, callback=before, measure=_norm)
    torch.manual_seed(12345)
    second, teacher = _trainer(tmp_path / "parts", settings, distils=distils)
    after = Watching()
    second.train(teacher, until_epoch=EPOCHS, callback=after, measure=_norm)

    assert before.losses + after.losses == seen.losses
    _assert_equal(second.student, whole.student)
    _assert_equal(second.distiller, whole.distiller)
    assert second.best.step == whole.best.step
    for name, tensor in whole.best.weights.items():
        assert torch.equal(second.best.weights[name], tensor), name


def _assert_equal(one: torch.nn.Module, other: torch.nn.Module) -> None:
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_a_checkpoint_of_the_release_before_resumes(tmp_path: Path) -> None:
    settings = _settings()
    whole, teacher = _trainer(tmp_path / "whole", settings)
    whole.train(teacher, until_epoch=EPOCHS, callback=Watching())
    first, teacher = _trainer(tmp_path / "parts", settings)
    first.train(teacher, until_epoch=1, callback=Watching())
    path = tmp_path / "parts" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    added = {"average", "best", "skipped_steps", "unused_epochs", "micro_batch_size"}
    torch.save({key: state[key] for key in state.keys() - added}, path)

    second, teacher = _trainer(tmp_path / "parts", settings)
    second.train(teacher, until_epoch=EPOCHS, callback=Watching())

    assert added < state.keys()
    _assert_equal(second.distiller, whole.distiller)


def test_the_moving_average_follows_the_student_and_is_what_is_kept(
    tmp_path: Path,
) -> None:
    trainer, teacher = _trainer(tmp_path, _settings(ema_decay=0.9))
    steps = list[torch.Tensor]()

    class Follow(Watching):
        def after_step(self, step: int, steps_: int, losses: StepLosses) -> None:
            steps.append(trainer.distiller.student.fc.weight.detach().clone())

    start = trainer.student.state_dict()["fc.weight"].clone()
    trainer.train(teacher, until_epoch=1, callback=Follow())

    average = start
    for number, weight in enumerate(steps, start=1):
        decay = min(0.9, (1 + number) / (10 + number))
        average = average.lerp(weight, 1 - decay)
    assert torch.allclose(trainer.student.state_dict()["fc.weight"], average)
    assert trainer.student is not trainer.distiller.student


def test_a_round_of_the_federation_sets_the_average_and_forgets_the_best(
    tmp_path: Path,
) -> None:
    settings = _settings(ema_decay=0.9, keep="best")
    trainer, teacher = _trainer(tmp_path, settings)
    trainer.train(teacher, until_epoch=1, callback=Watching(), measure=_norm)
    had_best = trainer.best.step
    zeros = {k: torch.zeros_like(v) for k, v in trainer.student.state_dict().items()}

    trainer.load(zeros, 2)

    assert had_best == STEPS_PER_EPOCH
    assert trainer.best.figure is None
    assert not any(w.any() for w in trainer.student.state_dict().values())


def test_the_best_epoch_is_kept_and_patience_ends_the_round(tmp_path: Path) -> None:
    settings = _settings(keep="best", patience=1)
    trainer, teacher = _trainer(tmp_path, settings)
    figures = iter([0.5, 0.4])
    students = list[torch.Tensor]()

    def measure(student: Encoder) -> float:
        students.append(student.state_dict()["fc.weight"].clone())
        return next(figures)

    trainer.train(teacher, until_epoch=EPOCHS, callback=Watching(), measure=measure)

    assert trainer.step == 2 * STEPS_PER_EPOCH
    assert trainer.best.figure == 0.5
    assert trainer.best.step == STEPS_PER_EPOCH
    assert torch.equal(trainer.best.weights["fc.weight"], students[0])
    assert trainer.student.training


def test_a_round_that_patience_ended_stays_over_and_the_next_one_trains(
    tmp_path: Path,
) -> None:
    settings = _settings(patience=1)
    trainer, teacher = _trainer(tmp_path, settings)
    worse = iter(np.linspace(0.9, 0.1, 20).tolist())
    trainer.train(
        teacher, until_epoch=3, callback=Watching(), measure=lambda _: next(worse)
    )
    again, teacher = _trainer(tmp_path, settings)

    again.train(
        teacher, until_epoch=3, callback=Watching(), measure=lambda _: next(worse)
    )
    ended = again.step
    again.train(
        teacher, until_epoch=5, callback=Watching(), measure=lambda _: next(worse)
    )

    assert ended == 2 * STEPS_PER_EPOCH
    assert again.step == 3 * STEPS_PER_EPOCH  # one epoch, and it was no better


@pytest.mark.parametrize("figure", [None, float("nan")])
def test_an_epoch_without_a_figure_is_no_best_one(
    tmp_path: Path, figure: float | None
) -> None:
    trainer, teacher = _trainer(tmp_path, _settings(keep="best"))

    trainer.train(teacher, until_epoch=1, callback=Watching(), measure=lambda _: figure)

    assert trainer.best.weights == {}


class Stumbling(ConvEncoder):
    """Gives what it is told to in some of its forward passes while it learns."""

    def __init__(self, fails: set[int]) -> None:
        super().__init__()
        self._fails, self._calls = fails, 0

    def forward(self, images: torch.Tensor) -> Features:
        features = super().forward(images)
        if not self.training:
            return features
        self._calls += 1
        factor = float("nan") if self._calls in self._fails else 1.0
        return features._replace(logits=features.logits * factor)


@pytest.mark.parametrize("bad", [{1}, {3, 4}])
def test_a_step_that_is_not_finite_is_left_out_and_the_run_goes_on(
    tmp_path: Path, bad: set[int], caplog: pytest.LogCaptureFixture
) -> None:
    trainer, teacher = _trainer(tmp_path, _settings(), Stumbling(bad))
    states: list[dict[str, torch.Tensor]] = [
        {k: v.clone() for k, v in trainer.distiller.state_dict().items()}
    ]

    class Keep(Watching):
        def after_step(self, step: int, steps: int, losses: StepLosses) -> None:
            super().after_step(step, steps, losses)
            state = trainer.distiller.state_dict()
            states.append({k: v.clone() for k, v in state.items()})

    trainer.train(teacher, until_epoch=2, callback=Keep())

    for step in bad:
        for name, tensor in states[step].items():
            assert torch.equal(tensor, states[step - 1][name]), name
    assert trainer.step == 2 * STEPS_PER_EPOCH
    assert trainer.skipped_steps == len(bad)
    assert "the loss is nan at step" in caplog.text
    assert torch.load(tmp_path / "checkpoint.pt")["skipped_steps"] == len(bad)


def test_a_gradient_that_is_not_finite_leaves_its_step_out_as_well(
    tmp_path: Path,
) -> None:
    student = ConvEncoder()
    trainer, teacher = _trainer(tmp_path, _settings(), student)
    calls = iter([False, True] + [False] * 20)
    student.conv.weight.register_hook(
        lambda gradient: gradient * float("inf") if next(calls) else gradient
    )

    trainer.train(teacher, until_epoch=1, callback=Watching())

    assert trainer.skipped_steps == 1
    assert student.conv.weight.isfinite().all()


def test_too_many_steps_that_are_not_finite_end_the_run(tmp_path: Path) -> None:
    settings = _settings(max_skipped_steps=2)
    trainer, teacher = _trainer(tmp_path, settings, Stumbling({2, 3, 4}))

    with pytest.raises(TrainingError, match=r"max_skipped_steps allows 2.*lower"):
        trainer.train(teacher, until_epoch=1, callback=Watching())


class Hungry(ConvEncoder):
    """Runs out of memory where it sees more patches at once than it can."""

    def __init__(self, most: int) -> None:
        torch.manual_seed(7)
        super().__init__()
        self.drop = torch.nn.Dropout(0.0)
        self.norm = torch.nn.GroupNorm(2, 8)
        self.seen: list[int] = []
        self._most = most

    def forward(self, images: torch.Tensor) -> Features:
        self.seen.append(len(images))
        if len(images) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return super().forward(images)


def test_a_gpu_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = _settings(channels_last=False)
    roomy, teacher = _trainer(tmp_path / "roomy", settings, Hungry(6))
    expected = Watching()
    roomy.train(teacher, until_epoch=2, callback=expected)
    student = Hungry(3)
    tight, teacher = _trainer(tmp_path / "tight", settings, student)
    found = Watching()

    tight.train(teacher, until_epoch=2, callback=found)

    assert found.losses == pytest.approx(expected.losses, rel=1e-4)
    assert torch.allclose(
        tight.distiller.bank.keys, roomy.distiller.bank.keys, atol=1e-4
    )
    assert torch.allclose(
        student.conv.weight, roomy.distiller.student.conv.weight, atol=1e-4
    )
    assert student.seen[0] == 6
    assert set(student.seen[1:]) == {3}
    assert tight.distiller.micro_batch_size == 3
    assert "from here on the student sees 3" in caplog.text
    again, _ = _trainer(tmp_path / "tight", settings, Hungry(3))
    assert again.distiller.micro_batch_size == 3


def test_a_memory_that_holds_no_two_patches_is_one_sentence(tmp_path: Path) -> None:
    trainer, teacher = _trainer(tmp_path, _settings(), Hungry(1))

    with pytest.raises(TrainingError, match=r"set training.micro_batch_size"):
        trainer.train(teacher, until_epoch=1, callback=Watching())


def test_class_weights_and_smoothing_reach_the_loss(tmp_path: Path) -> None:
    trainer, _ = _trainer(tmp_path, _settings(balance="weights", label_smoothing=0.1))

    terms = trainer.distiller.label_terms

    assert terms.smoothing == pytest.approx(0.1)
    assert terms.class_weights is not None
    assert terms.class_weights.tolist() == pytest.approx([24 / 54, 2, 4])


def test_the_head_has_its_own_rate(tmp_path: Path) -> None:
    trainer, _ = _trainer(tmp_path, _settings(head_learning_rate=0.5))
    distiller = trainer.distiller

    body, head = trainer._optimiser.param_groups

    learning = {id(w) for w in distiller.parameters() if w.requires_grad}
    assert {id(w) for w in (*body["params"], *head["params"])} == learning
    assert {id(w) for w in distiller.student.fc.parameters()} < set(
        map(id, head["params"])
    )
    assert (body["initial_lr"], head["initial_lr"]) == (0.05, 0.5)


def test_mixup_mixes_where_no_teacher_is_asked_and_only_there(tmp_path: Path) -> None:
    losses = []
    for distils in (True, False):
        for mixup in (0.0, 1.0):
            folder = tmp_path / f"{distils}-{mixup}"
            settings = _settings(mixup=mixup)
            trainer, teacher = _trainer(folder, settings, distils=distils)
            seen = Watching()
            trainer.train(teacher, until_epoch=1, callback=seen)
            losses.append(seen.losses)

    assert losses[0] == losses[1]
    assert losses[2][0] != losses[3][0]
