"""One student's share of a round: build, resume, train, evaluate, export.

It is a function of its job and of what lies on disk, so that a site that was killed,
or that trains on several devices, does the same as one that never stopped.
"""

import copy
import logging
import time
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.egress.outcome import StudentOutcome
from moma_client.student.factory import StudentJob, make_student
from moma_client.student.files import (
    Kept,
    LearnedFrom,
    StudentCard,
    joined_licence,
    save_student,
)
from moma_client.student.run_identity import training_run, view_table
from moma_client.student.teacher_factory import moving_part, student_teacher
from moma_core.data.augment.recipe import recipe_named
from moma_core.data.images import DECODING
from moma_core.data.loader import TrainingBatches
from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION, PatchSource
from moma_core.data.resolution import patch_scale
from moma_core.data.sources.factory import open_source
from moma_core.data.stain_normalisation import stain_target
from moma_core.data.view_mask import ViewMask
from moma_core.distillation.step import StepLosses
from moma_core.errors import DataError
from moma_core.evaluation.calibration import fit_temperature
from moma_core.evaluation.cohort import CountedSource
from moma_core.evaluation.figures import Evaluation
from moma_core.evaluation.metrics import Evaluator, validation_measure
from moma_core.federation.disclosure import Cohort
from moma_core.federation.masked_sum import start_digest
from moma_core.federation.task import Weights
from moma_core.models.backbone import Backbone, Normalise, create_backbone
from moma_core.models.encoder import Encoder
from moma_core.models.reused_classifier import ProjectedEncoder
from moma_core.teacher.protocol import AnyOutput, OutputSource
from moma_core.training.best import Measure
from moma_core.training.devices import batch_settings
from moma_core.training.record import TrainingRecord
from moma_core.training.trainer import Trainer

_logger = logging.getLogger(__name__)

_LOSS_EVERY_STEPS = 10  # reading a loss waits for the device


class SiteCallback:
    """Sees every step: a bar on a terminal, the losses in Prometheus.

    Args:
        context: Settings, stop and metrics of this process.
        progress: A bar, or None in a log.
        method: Name of the method, shown before the bar.
    """

    def __init__(
        self, context: RunContext, progress: Progress | None, method: str
    ) -> None:
        self.context = context
        self._metrics, self._progress = context.metrics, progress
        self._bar = progress.add_task(method, total=None) if progress else None
        self._last: float | None = None

    def stopped(self) -> bool:
        """Whether the operator asked to stop."""
        return self.context.stop.is_set()

    def after_step(self, step: int, steps: int, losses: StepLosses) -> None:
        """Counts the step, and reads its losses now and then."""
        now = time.monotonic()
        if self._last is not None:  # the first step's begin is nobody's to know
            self._metrics.step_seconds.labels(phase="step").observe(now - self._last)
        self._last = now
        if step % _LOSS_EVERY_STEPS == 0:
            for term, value in losses._asdict().items():
                self._metrics.loss.labels(term=term).set(float(value))
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=step, total=steps)

    @property
    def shows_bar(self) -> bool:
        """Whether a terminal shows how far it is."""
        return self._progress is not None


def train_student(
    fabric: Fabric, job: StudentJob, callback: SiteCallback
) -> StudentOutcome:
    """Reads from top to bottom as a student's round does.

    Args:
        fabric: Launched; this is one of its ranks.
        job: What to do.
        callback: Sees every step.

    Raises:
        MomaError: Data, teacher, checkpoint or training do not allow it.
    """
    config, source = job.config, open_source(job.config.data)
    torch.manual_seed(config.training.seed)  # every method starts from one student
    backbone = create_backbone(config.student, len(source.class_names))
    normalise = Normalise(backbone.mean, backbone.std)
    trainer = _trainer(fabric, job, source, backbone, normalise)
    size, by = config.view_size_px, config.training.keep_by
    measure = validation_measure(normalise, source, size, by, stopped=callback.stopped)
    student = trainer.distiller.student  # a method may put more around the backbone
    rows, context, start = len(source.index), callback.context, _own_start(job, student)
    with closing(_record(fabric, job, callback)) as record:
        with student_teacher(job, student, fabric, rows, context) as teacher:
            _go_on(job, trainer, teacher, callback, record, measure)
        kept, student, others = _chosen(trainer, config.training.keep)
        evaluator = _evaluator(job, student, normalise)
        measured = _evaluations(job, callback, evaluator, source)
        record.add_figures(trainer.step, measured.figures())
    card = _card(job, backbone, source, trainer, _projected_length(student))
    if fabric.global_rank == 0:
        for name, other in others.items():
            save_student(job.folder / name, other, _of(card, trainer, config, name))
        own = _of(card, trainer, config, kept)
        own = replace(own, temperature=measured.temperature)
        save_student(job.folder, student, own)
    outcome = measured.outcome(_patches(job, source), weights_of(student), card.model)
    return replace(outcome, start=start, began_from=trainer.loaded)


def _own_start(job: StudentJob, student: Encoder) -> Weights | None:
    """Returns what the student began as, while the federation has no student."""
    is_needed = job.task.masking is not None and job.task.weights is None
    return weights_of(student) if is_needed and job.method == "moma" else None


def _go_on(
    job: StudentJob,
    trainer: Trainer,
    teacher: OutputSource[AnyOutput],
    callback: SiteCallback,
    record: TrainingRecord,
    measure: Measure,
) -> None:
    """Trains from where the student was to the end of the round."""
    task = job.task
    trainer.resume(ema_teacher=moving_part(teacher))
    if task.weights is not None and job.method == "moma":
        number = task.round + (task.kind == "close")
        trainer.load(_tensors(task.weights), number, start_digest(task))
    record.start(trainer.step)
    if task.kind == "train":
        until = task.round * task.local_epochs
        if task.masking is not None:
            # beside sites at the end of the schedule, one that makes up for all rounds
            # would be the sum
            trainer.skip_to(until - task.local_epochs)
        trainer.train(
            teacher,
            until_epoch=until,
            callback=callback,
            record=record,
            measure=measure,
        )


def _record(fabric: Fabric, job: StudentJob, callback: SiteCallback) -> TrainingRecord:
    training = job.config.training
    if fabric.global_rank:
        quiet = {"record_every_steps": 0, "log_every_seconds": 0}
        training = training.model_copy(update=quiet)
    name = f"round {job.task.round}/{job.task.rounds}, {job.method}"
    return TrainingRecord(
        job.folder, name, training, logs_progress=not callback.shows_bar
    )


def _chosen(trainer: Trainer, keep: Kept) -> tuple[Kept, Encoder, dict[Kept, Encoder]]:
    """Returns which student is kept, the student, and the other one, if any."""
    last, best = trainer.student, trainer.best
    if not best.weights:
        return "last", last, {}
    of_best = copy.deepcopy(last)
    of_best.load_state_dict(best.weights)
    if keep == "best":
        return "best", of_best, {"last": last}
    return "last", last, {"best": of_best}


def _of(
    card: StudentCard, trainer: Trainer, config: SiteConfig, which: Kept
) -> StudentCard:
    """Returns the card of the last student, or of the best."""
    best = trainer.best
    if which == "last" or best.figure is None:
        return card
    by = f"{VALIDATION}_{config.training.keep_by} {best.figure:.4f}"
    return replace(card, kept="best", kept_by=by, steps=best.step)


def _trainer(
    fabric: Fabric,
    job: StudentJob,
    source: PatchSource,
    student: Backbone,
    normalise: Normalise,
) -> Trainer:
    config = job.config
    return Trainer(
        fabric,
        make_student(job.trained_as, job.teachers, student, source),
        normalise,
        _batches(fabric, job, source),
        config.training,
        training_run(job, source),
    )


def _batches(fabric: Fabric, job: StudentJob, source: PatchSource) -> TrainingBatches:
    """A baseline takes as many steps as the method, on full batches of labels."""
    config, training = job.config, job.config.training
    labelled, unlabelled, table = _training_rows(job, source)
    if not len(labelled):
        raise DataError("the training split has no labelled patch")
    settings = batch_settings(
        fabric, training, recipe_named(config.views), config.view_size_px
    )
    whole = TrainingBatches(
        source,
        labelled_rows=labelled,
        unlabelled_rows=unlabelled,
        settings=replace(settings, views=config.kept_views, table=table),
    )
    if job.distils:
        return whole
    # Who asks no teacher has no views to save.
    alone = replace(settings, steps_per_epoch=whole.steps_per_epoch)
    labelled = source.index.rows(TRAIN, labelled=True)
    return TrainingBatches(
        source, labelled_rows=labelled, unlabelled_rows=labelled[:0], settings=alone
    )


def _training_rows(
    job: StudentJob, source: PatchSource
) -> tuple[NDArray[np.int64], NDArray[np.int64], ViewMask | None]:
    """Returns labelled and unlabelled rows that have a view, and which they have."""
    labelled = source.index.rows(TRAIN, labelled=True)
    unlabelled = source.index.rows(TRAIN, labelled=False)
    table = view_table(job)
    if table is None:
        return labelled, unlabelled, None
    return table.usable(labelled), table.usable(unlabelled), table


def _patches(job: StudentJob, source: PatchSource) -> int:
    """Returns how many patches a student trains on."""
    if not job.distils:
        return len(source.index.rows(TRAIN, labelled=True))
    labelled, unlabelled, _ = _training_rows(job, source)
    return len(labelled) + len(unlabelled)


def _evaluator(job: StudentJob, student: Encoder, normalise: Normalise) -> Evaluator:
    config = job.config
    return Evaluator(student, normalise, config.view_size_px, config.task.ordered)


class _Measured(NamedTuple):
    """What was measured, and on whom, by split; the temperature of the validation's."""

    evaluations: dict[str, Evaluation]
    cohorts: dict[str, Cohort]
    temperature: float | None

    def figures(self) -> dict[str, float]:
        """Returns the figures that have a value, named `<split>_<figure>`."""
        return {
            name: value
            for split, found in self.evaluations.items()
            for name, value in found.values(f"{split}_").items()
        }

    def outcome(self, patches: int, weights: Weights, model: str) -> StudentOutcome:
        """Returns it with what else a round gives."""
        return StudentOutcome(
            self.figures(), patches, weights, model, self.cohorts, self.evaluations
        )


def _evaluations(
    job: StudentJob, callback: SiteCallback, evaluator: Evaluator, source: PatchSource
) -> _Measured:
    """Validation every round; the unseen split once, when all tuning is over."""
    splits = [VALIDATION] if job.task.kind == "train" else [VALIDATION, UNSEEN]
    unknown = job.config.egress.counted_as(job.config.data)
    evaluations: dict[str, Evaluation] = {}
    cohorts: dict[str, Cohort] = {}
    temperature = None
    for split in splits:
        counted = CountedSource(source, unknown)
        outputs = evaluator.outputs(counted, split, stopped=callback.stopped)
        found = outputs.measure()
        if split == VALIDATION:
            temperature = fit_temperature(outputs).value
        _logger.info("%s, %s: %s", job.method, split, found.summary())
        evaluations[split] = found
        cohorts[split] = counted.cohort()
    return _Measured(evaluations, cohorts, temperature)


def _projected_length(student: Encoder) -> int:
    is_projected = isinstance(student, ProjectedEncoder)
    return student.embedding_length if is_projected else 0


def _card(
    job: StudentJob,
    student: Backbone,
    source: PatchSource,
    trainer: Trainer,
    projected_length: int,
) -> StudentCard:
    learned_from = _learned_from(job)
    stain = job.config.data.stain_normalisation
    scale = patch_scale(source, job.config.view_size_px)
    return StudentCard(
        method=job.method,
        digest="",  # of the file, once it is written
        architecture=student.architecture,
        class_names=source.class_names,
        view_size_px=job.config.view_size_px,
        mean=student.mean,
        std=student.std,
        teacher=", ".join(each.name for each in learned_from),
        teacher_digest=", ".join(each.digest for each in learned_from),
        scenario=_scenario(job),
        steps=trainer.step,
        projected_length=projected_length,
        teacher_licence=joined_licence(each.licence for each in learned_from),
        teachers=learned_from if len(learned_from) > 1 else (),
        micro_batch_size=trainer.distiller.micro_batch_size or 0,
        skipped_steps=trainer.skipped_steps,
        decoding=DECODING,
        resolution_mpp=scale.view_mpp,
        patch_size_px=scale.size_px,
        ordered=job.config.task.ordered,
        stain_normalisation=None if stain is None else stain_target(stain),
    )


def _scenario(job: StudentJob) -> str:
    """Returns why a student learned from its teachers, or as a fallback from none."""
    if not job.has_teacher and job.trained_as == job.method:
        return ""
    return "; ".join(str(each.scenario) for each in job.teachers)


def _learned_from(job: StudentJob) -> tuple[LearnedFrom, ...]:
    if not job.has_teacher:
        return ()
    return tuple(
        LearnedFrom(
            each.card.name,
            each.card.digest,
            str(each.scenario),
            each.weight,
            each.card.licence,
        )
        for each in job.teachers
    )


def _tensors(weights: Weights) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in weights.items()}


def weights_of(student: Encoder) -> Weights:
    """Returns a student's weights as they would travel."""
    return {
        name: tensor.detach().cpu().numpy().copy()
        for name, tensor in student.state_dict().items()
    }
