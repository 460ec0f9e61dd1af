"""Steps that are not finite, and a GPU whose memory does not suffice (simulated)."""

from pathlib import Path

import pytest
import torch

from moma_core.distillation.step import StepLosses
from moma_core.errors import TrainingError
from moma_core.models.encoder import Features
from tests.support.site.tiny import ConvEncoder
from tests.support.training_run import (
    STEPS_PER_EPOCH,
    Watching,
    make_trainer,
    run_settings,
)


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
    trainer, teacher = make_trainer(tmp_path, run_settings(), Stumbling(bad))
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
    trainer, teacher = make_trainer(tmp_path, run_settings(), student)
    calls = iter([False, True] + [False] * 20)
    student.conv.weight.register_hook(
        lambda gradient: gradient * float("inf") if next(calls) else gradient
    )

    trainer.train(teacher, until_epoch=1, callback=Watching())

    assert trainer.skipped_steps == 1
    assert student.conv.weight.isfinite().all()


def test_too_many_steps_that_are_not_finite_end_the_run(tmp_path: Path) -> None:
    settings = run_settings(max_skipped_steps=2)
    trainer, teacher = make_trainer(tmp_path, settings, Stumbling({2, 3, 4}))

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
    settings = run_settings(channels_last=False)
    roomy, teacher = make_trainer(tmp_path / "roomy", settings, Hungry(6))
    expected = Watching()
    roomy.train(teacher, until_epoch=2, callback=expected)
    student = Hungry(3)
    tight, teacher = make_trainer(tmp_path / "tight", settings, student)
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
    again, _ = make_trainer(tmp_path / "tight", settings, Hungry(3))
    assert again.distiller.micro_batch_size == 3


def test_a_memory_that_holds_no_two_patches_is_one_sentence(tmp_path: Path) -> None:
    trainer, teacher = make_trainer(tmp_path, run_settings(), Hungry(1))

    with pytest.raises(TrainingError, match=r"set training.micro_batch_size"):
        trainer.train(teacher, until_epoch=1, callback=Watching())
