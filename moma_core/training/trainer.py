"""The loop around the step: forward, backward, optimiser, bank; checkpoints and resume.

It runs on one CPU, one GPU, or several (Fabric's DDP); what it trains is the caller's.
"""

import copy
import logging
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from moma_core.data.batch import Batch
from moma_core.data.loader import TrainingBatches
from moma_core.distillation.losses import LabelTerms
from moma_core.distillation.memory_bank import Keys
from moma_core.distillation.step import Distiller, StepLosses
from moma_core.errors import StoppedError, TeacherError, TrainingError
from moma_core.models.backbone import Normalise
from moma_core.models.ema import ema_update
from moma_core.models.encoder import Encoder
from moma_core.teacher.protocol import AnyOutput, OutputSource
from moma_core.training.best import BestStudent, Measure
from moma_core.training.checkpoint import (
    VERSION,
    TrainingState,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from moma_core.training.gradient import BatchGradient, memory_format
from moma_core.training.optimiser import advance, cosine_schedule, make_optimiser
from moma_core.training.record import StepFacts, TrainingRecord
from moma_core.training.settings import TrainingSettings

_logger = logging.getLogger(__name__)


class TrainingCallback(Protocol):
    """Called while a run trains; may stop it."""

    def stopped(self) -> bool:
        """Whether the operator asked to stop; looked at between two steps."""
        ...

    def after_step(self, step: int, steps: int, losses: StepLosses) -> None:
        """Is given each step's losses, detached, before the next begins."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What a run is, over all its rounds.

    Args:
        epochs: Of the whole run; the schedule's cosine ends there.
        checkpoint: File of the run's state.
        run: Digest of everything that must not change between two resumes.
        former_run: What the release before had for it, whose classes were not balanced
            unless the file said so; a run that began then goes on like that.
    """

    epochs: int
    checkpoint: Path
    run: str
    former_run: str = ""


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
        self.distiller, self.best = distiller, BestStudent()
        self.step, self.loaded_round, self.loaded = 0, 0, ""
        self.skipped_steps = self.unused_epochs = 0
        self._fabric, self._batches = fabric, batches
        self._settings, self._plan, self._run = settings, plan, plan.run
        self._steps = plan.epochs * batches.steps_per_epoch
        distiller.student.to(memory_format=memory_format(settings))
        distiller.student.freeze_stages(settings.freeze_stages)
        distiller.micro_batch_size = settings.micro_batch_size
        optimiser = make_optimiser(distiller, settings)
        model, self._optimiser = fabric.setup(distiller, optimiser)
        self._gradient = BatchGradient(
            fabric,
            distiller,
            model,
            self._optimiser,
            normalise.to(fabric.device),
            settings,
        )
        weights = batches.class_weights() if settings.balance == "weights" else None
        distiller.label_terms = LabelTerms(
            settings.label_smoothing,
            None if weights is None else weights.to(fabric.device),
        )
        self._schedule = cosine_schedule(
            optimiser, steps=self._steps, warmup_steps=settings.warmup_steps
        )
        self._average: Encoder | None = None
        if settings.ema_decay:
            self._average = copy.deepcopy(distiller.student).requires_grad_(False)
        self._ema_teacher: nn.Module = nn.Module()

    @property
    def student(self) -> Encoder:
        """The student after the last step; its moving average, where there is one."""
        return self.distiller.student if self._average is None else self._average

    def resume(self, ema_teacher: nn.Module | None = None) -> None:
        """Goes back to the checkpoint, if there is one.

        Args:
            ema_teacher: A teacher's network that is updated from the student, and so
                belongs to the state.
        """
        self._ema_teacher = ema_teacher or nn.Module()
        plan = self._plan
        state = load_checkpoint(plan.checkpoint, plan.run, plan.former_run)
        if state is None:
            return
        if state["run"] != plan.run:
            self._run = plan.former_run
            self.distiller.label_terms = LabelTerms(self._settings.label_smoothing)
        self.distiller.load_state_dict(state["distiller"])
        self._ema_teacher.load_state_dict(state["teacher"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self._fabric.strategy.precision.load_state_dict(state["scaler"])
        self.step, self.loaded_round = state["step"], state["adopted_round"]
        self._restore_added(state)
        _logger.info("going on after step %d of %d", self.step, self._steps)
        if self._fabric.global_rank == 0:
            restore_random_state(state["random"])
        else:
            # Rank 0's state is the one that is kept; the others only must differ.
            torch.manual_seed(
                self._settings.seed + self.step + 7919 * self._fabric.global_rank
            )

    def load(self, weights: dict[str, Tensor], round_number: int, name: str) -> None:
        """Takes the federation's student for a round, once; `loaded` has its name.

        Raises:
            TrainingError: The weights are of another model.
        """
        if self.loaded_round >= round_number:
            return
        try:
            self.distiller.student.load_state_dict(weights)
        except RuntimeError as error:
            raise TrainingError(f"the round's weights do not fit: {error}") from error
        if self._average is not None:
            self._average.load_state_dict(weights)
        self.best.forget(self.step)
        self.loaded_round, self.loaded = round_number, name
        self.save()

    def skip_to(self, epoch: int) -> None:
        """Leaves out what was missed before an epoch, in the schedule as well."""
        steps = self._batches.steps_per_epoch
        missed = max(0, epoch - self.unused_epochs - self.step // steps)
        self.unused_epochs += missed
        advance(self._schedule, missed * steps)

    def train(
        self,
        teacher: OutputSource[AnyOutput],
        *,
        until_epoch: int,
        callback: TrainingCallback,
        record: TrainingRecord | None = None,
        measure: Measure | None = None,
    ) -> None:
        """Trains up to the end of an epoch and leaves a checkpoint there.

        Stopped, or left by its teacher, it leaves one after the last step. Any other
        error keeps the checkpoint before it as it was. With patience it may end at an
        earlier epoch; nothing makes up for the others later.

        Args:
            teacher: Gives the outputs for the batches.
            until_epoch: Counted over the run; nothing happens if it is reached.
            callback: Called after every step.
            record: Keeps how it goes; started.
            measure: Says how good a student is, for `keep: best` and `patience`.

        Raises:
            StoppedError: The callback stopped the run.
            TeacherError: The teacher refused or is away.
            TrainingError: Too many losses, or the state, are not finite.
        """
        self.distiller.train()
        self.best.begin_round(until_epoch)
        self._measure_epoch(measure, until_epoch)
        last = (until_epoch - self.unused_epochs) * self._batches.steps_per_epoch
        pairs = teacher.answer_batches(self._batches_until(last))
        try:
            for facts in self._steps_on(pairs, last):
                if record is not None:
                    record.add(facts)
                if self._finish_step(facts, callback, measure, until_epoch):
                    break
        except (StoppedError, TeacherError):
            self.save()
            raise
        finally:
            if isinstance(pairs, Generator):
                pairs.close()  # while its teacher can still be reached
        self.save()

    def _finish_step(
        self,
        facts: StepFacts,
        callback: TrainingCallback,
        measure: Measure | None,
        until_epoch: int,
    ) -> bool:
        """Does what is due after a step; returns whether the round ends with it."""
        callback.after_step(self.step, self._steps, facts.losses)
        ends = self._measure_epoch(measure, until_epoch)
        if self.step % self._settings.checkpoint_every_steps == 0:
            self.save()
        if not ends and self.step < facts.until and self._is_stopped(callback):
            raise StoppedError(f"stopped after step {self.step}")
        return ends

    def _steps_on(
        self, pairs: Iterable[tuple[Batch, AnyOutput | None]], until: int
    ) -> Iterator[StepFacts]:
        """Takes a step on each pair, and yields what there is to say of it."""
        since = time.perf_counter()
        for batch, teacher_output in pairs:
            waited_seconds = time.perf_counter() - since
            rate = self._optimiser.param_groups[0]["lr"]
            losses = self._train_step(batch, teacher_output)
            yield StepFacts(
                step=self.step,
                epoch=self.step / self._batches.steps_per_epoch,
                until=until,
                losses=losses,
                learning_rate=rate,
                patches=len(batch.labels) * self._fabric.world_size,
                waited_seconds=waited_seconds,
            )
            since = time.perf_counter()

    def _train_step(self, batch: Batch, teacher_output: AnyOutput | None) -> StepLosses:
        """One step: gradient, optimiser, bank, schedule.

        One whose loss or gradient is not finite leaves all as it was, but its number.
        """
        before = self._gradient.before()
        output, norm = self._gradient.of(batch, teacher_output, before)
        has_scaler = self._settings.precision == "16-mixed"  # it skips by itself
        finite = output.losses.total.isfinite() & (has_scaler | norm.isfinite())
        is_whole = self._on_all_ranks(bool(finite))
        if is_whole or has_scaler:
            self._optimiser.step()
        if not is_whole:
            self._gradient.undo(before)
            self._count_skipped(output.losses)
        elif output.new_keys is not None:
            self.distiller.update_memory(self._keys_of_all_ranks(output.new_keys))
        advance(self._schedule)
        self.step += 1
        if self._average is not None and is_whole:
            decay = min(self._settings.ema_decay, (1 + self.step) / (10 + self.step))
            ema_update(self._average, self.distiller.student, decay)
        return StepLosses(*(term.detach() for term in output.losses))

    def _count_skipped(self, losses: StepLosses) -> None:
        self.skipped_steps += 1
        limit = self._settings.max_skipped_steps
        what = f"the loss is {losses.total.item():g}"
        if losses.total.isfinite():
            what = "the gradient is not finite"
        if self.skipped_steps > limit:
            raise TrainingError(
                f"{what} at step {self.step + 1}: {self.skipped_steps} steps of the "
                f"run were not finite, training.max_skipped_steps allows {limit}; a "
                f"lower training.learning_rate or precision 32-true may help"
            )
        _logger.warning(
            "%s at step %d: the step is left out (%d of at most %d)",
            what,
            self.step + 1,
            self.skipped_steps,
            limit,
        )

    def _measure_epoch(self, measure: Measure | None, until_epoch: int) -> bool:
        """Measures at the end of an epoch; returns whether the round ends with it."""
        epoch, rest = divmod(self.step, self._batches.steps_per_epoch)
        if measure is None or not self._settings.validates or rest or not epoch:
            return False
        if self.best.measured_step != self.step:
            figure = self._fabric.broadcast(measure(self.student))
            self.distiller.train()
            self.best.note(figure, self.student, self.step)
        patience = self._settings.patience
        if not patience or self.best.waited < patience:
            return False
        unused = until_epoch - self.unused_epochs - epoch
        if unused:
            _logger.info("no better for %d epochs: the round ends here", patience)
        self.unused_epochs += unused
        return True

    def _batches_until(self, last: int) -> Iterator[Batch]:
        step = self.step
        while step < last:
            epoch, done = divmod(step, self._batches.steps_per_epoch)
            for batch in self._batches.epoch(epoch, done):
                yield batch
                step += 1

    def _is_stopped(self, callback: TrainingCallback) -> bool:
        """All ranks stop after one and the same step."""
        return not self._on_all_ranks(not callback.stopped())

    def _on_all_ranks(self, holds: bool) -> bool:
        if self._fabric.world_size == 1:
            return holds
        others = torch.tensor(float(not holds), device=self._fabric.device)
        total = self._fabric.all_reduce(others, reduce_op="sum")
        return isinstance(total, Tensor) and not bool(total > 0)

    def _keys_of_all_ranks(self, keys: Keys) -> Keys:
        """Several teachers train on one device, so only one has keys to gather."""
        if self._fabric.world_size == 1:
            return keys
        features, classes = map(self._from_all_ranks, (keys.features, keys.classes))
        return Keys(features, classes)

    def _from_all_ranks(self, rows: Tensor) -> Tensor:
        return self._fabric.all_gather(rows).flatten(0, 1)  # type: ignore[union-attr]

    def _restore_added(self, state: TrainingState) -> None:
        """Restores what a checkpoint of an earlier release does not have."""
        self.skipped_steps = state.get("skipped_steps", 0)
        self.unused_epochs = state.get("unused_epochs", 0)
        self.loaded = state.get("loaded", "")
        self.best.load_state_dict(state.get("best", {}))
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        if (kept := state.get("micro_batch_size")) is not None:
            own = self.distiller.micro_batch_size or kept
            self.distiller.micro_batch_size = min(own, kept)

    def save(self) -> None:
        """Writes the checkpoint, unless it holds NaN; rank 0 alone."""
        if self._fabric.global_rank != 0:
            return
        state = TrainingState(
            version=VERSION,
            run=self._run,
            step=self.step,
            adopted_round=self.loaded_round,
            distiller=self.distiller.state_dict(),
            teacher=self._ema_teacher.state_dict(),
            optimiser=self._optimiser.state_dict(),
            schedule=self._schedule.state_dict(),
            scaler=self._fabric.strategy.precision.state_dict(),
            random=random_state(),
            average={} if self._average is None else self._average.state_dict(),
            best=self.best.state_dict(),
            skipped_steps=self.skipped_steps,
            unused_epochs=self.unused_epochs,
            micro_batch_size=self.distiller.micro_batch_size,
            loaded=self.loaded,
        )
        save_checkpoint(self._plan.checkpoint, state)
        _logger.debug("checkpoint after step %d", self.step)
