"""What `training` may ask for beyond the published loop, and that it resumes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moma_core.distillation.step import StepLosses
from moma_core.errors import StoppedError
from moma_core.models.encoder import Encoder
from tests.support.training_run import (
    EPOCHS,
    STEPS_PER_EPOCH,
    Watching,
    make_trainer,
    run_settings,
)


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
    settings = run_settings(**changes)
    distils = "mixup" not in changes
    whole, teacher = make_trainer(tmp_path / "whole", settings, distils=distils)
    seen = Watching()
    whole.train(teacher, until_epoch=EPOCHS, callback=seen, measure=_norm)

    first, teacher = make_trainer(tmp_path / "parts", settings, distils=distils)
    before = Watching(stop_after=STEPS_PER_EPOCH)  # just as an epoch was measured
    with pytest.raises(StoppedError):
        first.train(teacher, until_epoch=EPOCHS, callback=before, measure=_norm)
    torch.manual_seed(12345)
    second, teacher = make_trainer(tmp_path / "parts", settings, distils=distils)
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


def test_a_run_of_the_release_before_goes_on_as_it_began(tmp_path: Path) -> None:
    """It had no class weights, and its checkpoint none of the newer keys."""
    whole, teacher = make_trainer(tmp_path / "whole", run_settings(balance="none"))
    whole.train(teacher, until_epoch=EPOCHS, callback=Watching())
    first, teacher = make_trainer(tmp_path / "parts", run_settings(balance="none"))
    first.train(teacher, until_epoch=1, callback=Watching())
    path = tmp_path / "parts" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    added = {"average", "best", "skipped_steps", "unused_epochs", "micro_batch_size"}
    kept = {key: state[key] for key in state.keys() - added}
    torch.save({**kept, "run": "former"}, path)

    for until in (2, EPOCHS):
        second, teacher = make_trainer(tmp_path / "parts", run_settings())
        second.train(teacher, until_epoch=until, callback=Watching())

    assert added < state.keys()
    assert torch.load(path, weights_only=True)["run"] == "former"
    _assert_equal(second.distiller, whole.distiller)


def test_the_moving_average_follows_the_student_and_is_what_is_kept(
    tmp_path: Path,
) -> None:
    trainer, teacher = make_trainer(tmp_path, run_settings(ema_decay=0.9))
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
    settings = run_settings(ema_decay=0.9, keep="best")
    trainer, teacher = make_trainer(tmp_path, settings)
    trainer.train(teacher, until_epoch=1, callback=Watching(), measure=_norm)
    had_best = trainer.best.step
    zeros = {k: torch.zeros_like(v) for k, v in trainer.student.state_dict().items()}

    trainer.load(zeros, 2, "w")

    assert had_best == STEPS_PER_EPOCH
    assert trainer.best.figure is None
    assert not any(w.any() for w in trainer.student.state_dict().values())


def test_the_best_epoch_is_kept_and_patience_ends_the_round(tmp_path: Path) -> None:
    settings = run_settings(keep="best", patience=1)
    trainer, teacher = make_trainer(tmp_path, settings)
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
    settings = run_settings(patience=1)
    trainer, teacher = make_trainer(tmp_path, settings)
    worse = iter(np.linspace(0.9, 0.1, 20).tolist())
    trainer.train(
        teacher, until_epoch=3, callback=Watching(), measure=lambda _: next(worse)
    )
    again, teacher = make_trainer(tmp_path, settings)

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
    trainer, teacher = make_trainer(tmp_path, run_settings(keep="best"))

    trainer.train(teacher, until_epoch=1, callback=Watching(), measure=lambda _: figure)

    assert trainer.best.weights == {}


def test_class_weights_and_smoothing_reach_the_loss(tmp_path: Path) -> None:
    trainer, _ = make_trainer(
        tmp_path, run_settings(balance="weights", label_smoothing=0.1)
    )

    terms = trainer.distiller.label_terms

    assert terms.smoothing == pytest.approx(0.1)
    assert terms.class_weights is not None
    assert terms.class_weights.tolist() == pytest.approx([24 / 54, 2, 4])


def test_the_head_has_its_own_rate(tmp_path: Path) -> None:
    trainer, _ = make_trainer(tmp_path, run_settings(head_learning_rate=0.5))
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
            settings = run_settings(mixup=mixup)
            trainer, teacher = make_trainer(folder, settings, distils=distils)
            seen = Watching()
            trainer.train(teacher, until_epoch=1, callback=seen)
            losses.append(seen.losses)

    assert losses[0] == losses[1]
    assert losses[2][0] != losses[3][0]
