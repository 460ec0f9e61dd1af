"""The loop around the step: forward, backward, optimiser, bank; checkpoints and resume.

It runs on one CPU, one GPU, or several (Fabric's DDP); what it trains is the caller's.
"""

import logging
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from moma_core.data.augment.recipe import ViewRecipe
from moma_core.data.batch import Batch
from moma_core.data.loader import BatchSettings, TrainingBatches
from moma_core.distillation.memory_bank import Keys
from moma_core.distillation.step import Distiller, StepLosses
from moma_core.errors import StoppedError, TeacherError, TrainingError
from moma_core.models.backbone import Normalise
from moma_core.teacher.protocol import Teacher, TeacherOutput
from moma_core.training.checkpoint import (
    VERSION,
    TrainingState,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from moma_core.training.settings import TrainingSettings

_logger = logging.getLogger(__name__)

_FINITE_CHECK_STEPS = 10


class TrainingCallback(Protocol):
    """Who looks at a run while it trains, and may stop it."""

    def stopped(self) -> bool:
        """Whether the operator asked to stop; looked at between two steps."""
        ...

    def after_step(self, step: int, steps: int, losses: StepLosses) -> None:
        """Sees each step's losses, detached, before the next begins."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What a run is, over all its rounds.

    Args:
        epochs: Of the whole run; the schedule's cosine ends there.
        checkpoint: File of the run's state.
        run: Digest of everything that must not change between two resumes.
    """

    epochs: int
    checkpoint: Path
    run: str


def make_fabric(settings: TrainingSettings) -> Fabric:
    """Returns the devices that the settings name; not yet launched."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    several = settings.devices > 1
    # The bank is a buffer of 32 MB that every rank fills alike: not to be broadcast.
    strategy = DDPStrategy(start_method="spawn", forward_sync_buffers=False)
    return Fabric(
        accelerator=settings.accelerator,
        devices=settings.devices,
        precision=settings.precision,
        strategy=strategy if several else "auto",
    )


def batch_settings(
    fabric: Fabric, settings: TrainingSettings, recipe: ViewRecipe, view_size_px: int
) -> BatchSettings:
    """Returns how this rank's batches are made."""
    return BatchSettings(
        batch_size=settings.batch_size,
        labelled_share=settings.labelled_share,
        seed=settings.seed,
        recipe=recipe,
        view_size_px=view_size_px,
        workers=settings.workers,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )


class Trainer:
    """One student's training: made anew for each round, it resumes where it was.

    Args:
        fabric: Launched.
        distiller: Method and student.
        normalise: From uint8 views to what the student takes.
        batches: Of this rank.
        settings: Optimiser and schedule.
        plan: The run.

    Raises:
        CheckpointError: The checkpoint is damaged, or of other settings.
    """

    def __init__(
        self,
        fabric: Fabric,
        distiller: Distiller,
        normalise: Normalise,
        batches: TrainingBatches,
        settings: TrainingSettings,
        plan: TrainingRun,
    ) -> None:
        self.distiller = distiller
        self.adopted_round = 0
        self.step = 0
        self._fabric, self._batches = fabric, batches
        self._settings, self._plan = settings, plan
        self._steps = plan.epochs * batches.steps_per_epoch
        self._normalise = normalise.to(fabric.device)
        self._format = (
            torch.channels_last if settings.channels_last else torch.contiguous_format
        )
        distiller.student.to(memory_format=self._format)
        optimiser = torch.optim.SGD(
            [weight for weight in distiller.parameters() if weight.requires_grad],
            lr=settings.learning_rate,
            momentum=settings.sgd_momentum,
            weight_decay=settings.weight_decay,
        )
        self._model, self._optimiser = fabric.setup(distiller, optimiser)
        self._schedule = cosine_schedule(
            optimiser, steps=self._steps, warmup_steps=settings.warmup_steps
        )
        self._moving: nn.Module = nn.Module()

    def resume(self, moving_teacher: nn.Module | None = None) -> None:
        """Goes back to the checkpoint, if there is one.

        Args:
            moving_teacher: A teacher's network that moves with the student, and so
                belongs to the state.
        """
        self._moving = moving_teacher or nn.Module()
        state = load_checkpoint(self._plan.checkpoint, self._plan.run)
        if state is None:
            return
        self.distiller.load_state_dict(state["distiller"])
        self._moving.load_state_dict(state["teacher"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self._fabric.strategy.precision.load_state_dict(state["scaler"])
        self.step, self.adopted_round = state["step"], state["adopted_round"]
        _logger.info("going on after step %d of %d", self.step, self._steps)
        if self._fabric.global_rank == 0:
            restore_random_state(state["random"])
        else:
            # Rank 0's state is the one that is kept; the others only must differ.
            torch.manual_seed(
                self._settings.seed + self.step + 7919 * self._fabric.global_rank
            )

    def load(self, weights: dict[str, Tensor], round_number: int) -> None:
        """Takes the federation's student for a round, once, also if it resumes.

        Raises:
            TrainingError: The weights are of another model.
        """
        if self.adopted_round >= round_number:
            return
        try:
            self.distiller.student.load_state_dict(weights)
        except RuntimeError as error:
            raise TrainingError(f"the round's weights do not fit: {error}") from error
        self.adopted_round = round_number
        self.save()

    def train(
        self, teacher: Teacher, *, until_epoch: int, watch: TrainingCallback
    ) -> None:
        """Trains up to the end of an epoch and leaves a checkpoint there.

        Stopped, or left by its teacher, it leaves one after the last step. Any other
        error leaves the checkpoint before it as it was.

        Args:
            teacher: Who answers the batches.
            until_epoch: Counted over the run; nothing happens if it is reached.
            watch: Sees every step.

        Raises:
            StoppedError: The watch asked for it.
            TeacherError: The teacher refused or is away.
            TrainingError: The loss or the state is not finite.
        """
        last = until_epoch * self._batches.steps_per_epoch
        losses: StepLosses | None = None
        self.distiller.train()
        pairs = teacher.answer_batches(self._batches_until(last))
        try:
            for batch, answer in pairs:
                losses = self._train_step(batch, answer)
                watch.after_step(self.step, self._steps, losses)
                if self.step % _FINITE_CHECK_STEPS == 0:
                    self._check_loss(losses)
                if self.step % self._settings.checkpoint_every_steps == 0:
                    self._save_after(losses)
                if self.step < last and self._asked_to_stop(watch):
                    raise StoppedError(f"stopped after step {self.step}")
        except (StoppedError, TeacherError):
            self._save_after(losses)
            raise
        finally:
            if isinstance(pairs, Generator):
                pairs.close()  # while its teacher can still be told
        self._save_after(losses)

    def _train_step(self, batch: Batch, answer: TeacherOutput | None) -> StepLosses:
        """One step: forward, backward, clip, optimiser, schedule, bank."""
        device = self._fabric.device
        images = self._normalise(batch.images.to(device, non_blocking=True))
        labels = batch.labels.to(device, non_blocking=True)
        output = self._model(
            images.contiguous(memory_format=self._format),
            labels,
            None if answer is None else answer.to(device),
            batch.rows.to(device, non_blocking=True),
        )
        self._optimiser.zero_grad()
        self._fabric.backward(output.losses.total)
        self._fabric.clip_gradients(
            self._model,
            self._optimiser,
            max_norm=self._settings.clip_norm,
            error_if_nonfinite=False,
        )
        self._optimiser.step()
        self._schedule.step()
        if output.new_keys is not None:
            self.distiller.update_memory(
                Keys(*map(self._from_all_ranks, output.new_keys))
            )
        self.step += 1
        return StepLosses(*(term.detach() for term in output.losses))

    def _batches_until(self, last: int) -> Iterator[Batch]:
        step = self.step
        while step < last:
            epoch, done = divmod(step, self._batches.steps_per_epoch)
            for batch in self._batches.epoch(epoch, done):
                yield batch
                step += 1

    def _asked_to_stop(self, watch: TrainingCallback) -> bool:
        """All ranks stop after one and the same step."""
        if self._fabric.world_size == 1:
            return watch.stopped()
        asked = torch.tensor(float(watch.stopped()), device=self._fabric.device)
        total = self._fabric.all_reduce(asked, reduce_op="sum")
        return isinstance(total, Tensor) and bool(total > 0)

    def _from_all_ranks(self, rows: Tensor) -> Tensor:
        if self._fabric.world_size == 1:
            return rows
        gathered = self._fabric.all_gather(rows)
        return gathered.flatten(0, 1)  # type: ignore[union-attr]

    def _check_loss(self, losses: StepLosses) -> None:
        if not losses.total.isfinite():
            raise TrainingError(f"the loss is {losses.total} after step {self.step}")

    def _save_after(self, losses: StepLosses | None) -> None:
        if losses is not None:
            self._check_loss(losses)
        self.save()

    def save(self) -> None:
        """Writes the checkpoint, unless it holds NaN; rank 0 alone."""
        if self._fabric.global_rank != 0:
            return
        state = TrainingState(
            version=VERSION,
            run=self._plan.run,
            step=self.step,
            adopted_round=self.adopted_round,
            distiller=self.distiller.state_dict(),
            teacher=self._moving.state_dict(),
            optimiser=self._optimiser.state_dict(),
            schedule=self._schedule.state_dict(),
            scaler=self._fabric.strategy.precision.state_dict(),
            random=random_state(),
        )
        save_checkpoint(self._plan.checkpoint, state)
        _logger.debug("checkpoint after step %d", self.step)


def cosine_schedule(
    optimiser: Optimizer, *, steps: int, warmup_steps: int = 0
) -> LambdaLR:
    """Returns a schedule that is stepped once a step.

    Source: Loshchilov and Hutter, eq. 5 (https://arxiv.org/abs/1608.03983).

    Args:
        optimiser: Its learning rate is the peak.
        steps: Of the whole run; beyond it the rate stays zero.
        warmup_steps: Linear from 1 / warmup_steps to 1.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        share = (step - warmup_steps) / max(1, steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    return LambdaLR(optimiser, factor)
