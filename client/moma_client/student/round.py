"""One student's share of a round: build, resume, train, evaluate, export.

It is a function of its job and of what lies on disk, so that a site that was killed,
or that trains on several devices, does the same as one that never stopped.
"""

import hashlib
import logging
import time
from dataclasses import asdict, replace
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from moma_client.cache.views import ViewSchedule
from moma_client.context import RunContext
from moma_client.egress.outcome import StudentOutcome
from moma_client.student.factory import StudentJob, make_student
from moma_client.student.files import StudentCard, save_student
from moma_client.student.teacher_factory import moving_part, student_teacher
from moma_core.data.augment.recipe import recipe_named
from moma_core.data.images import DECODING
from moma_core.data.loader import TrainingBatches
from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION, PatchIndex, PatchSource
from moma_core.data.resolution import view_mpp
from moma_core.data.sources.factory import open_source
from moma_core.data.stain_normalisation import stain_target
from moma_core.data.view_mask import ViewMask
from moma_core.distillation.step import StepLosses
from moma_core.errors import DataError
from moma_core.evaluation.cohort import CountedSource
from moma_core.evaluation.figures import Evaluation
from moma_core.evaluation.metrics import Evaluator
from moma_core.federation.disclosure import Cohort
from moma_core.federation.task import Weights
from moma_core.models.backbone import Backbone, Normalise, create_backbone
from moma_core.models.encoder import Encoder
from moma_core.models.reused_classifier import ProjectedEncoder
from moma_core.training.settings import run_digest
from moma_core.training.trainer import Trainer, TrainingRun, batch_settings

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
    config, task = job.config, job.task
    torch.manual_seed(config.training.seed)  # every method starts from one student
    source = open_source(config.data)
    backbone = create_backbone(config.student, len(source.class_names))
    normalise = Normalise(backbone.mean, backbone.std)
    trainer = _trainer(fabric, job, source, backbone, normalise)
    student = trainer.distiller.student  # a method may put more around the backbone

    rows = len(source.index)
    with student_teacher(job, student, fabric, rows, callback.context) as teacher:
        trainer.resume(ema_teacher=moving_part(teacher))
        if task.weights is not None and job.method == "moma":
            trainer.load(_tensors(task.weights), task.round + (task.kind == "close"))
        if task.kind == "train":
            until = task.round * task.local_epochs
            trainer.train(teacher, until_epoch=until, callback=callback)

    evaluator = _evaluator(job, student, normalise)
    measured = _evaluations(job, callback, evaluator, source)
    card = _card(job, backbone, source, steps=trainer.step)
    if isinstance(student, ProjectedEncoder):
        card = replace(card, projected_length=student.embedding_length)
    if fabric.global_rank == 0:
        save_student(job.folder, student, card)
    return measured.outcome(_patches(job, source), weights_of(student), card.model)


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
        make_student(config, job.method, job.card, job.scenario, student, source),
        normalise,
        _batches(fabric, job, source),
        config.training,
        _plan(job, source),
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
    views = config.teacher.views if config.teacher.caches else 0
    whole = TrainingBatches(
        source,
        labelled_rows=labelled,
        unlabelled_rows=unlabelled,
        settings=replace(settings, views=views, table=table),
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
    table = _table(job)
    if table is None:
        return labelled, unlabelled, None
    return table.usable(labelled), table.usable(unlabelled), table


def _patches(job: StudentJob, source: PatchSource) -> int:
    """Returns how many patches a student trains on."""
    if not job.distils:
        return len(source.index.rows(TRAIN, labelled=True))
    labelled, unlabelled, _ = _training_rows(job, source)
    return len(labelled) + len(unlabelled)


def _table(job: StudentJob) -> ViewMask | None:
    if not job.config.teacher.caches:
        return None
    return ViewSchedule(job.folder.parent).of_round(job.task.round)


def _plan(job: StudentJob, source: PatchSource) -> TrainingRun:
    config = job.config
    epochs = job.task.rounds * job.task.local_epochs
    digest = run_digest(
        config.training,
        {
            "method": job.method,
            "teacher": _teacher_identity(job) if job.has_teacher else [],
            "classes": source.class_names,
            "rows": _digest(source.index),
            "epochs": epochs,
            "student": config.student.model_dump(mode="json"),
            "distillation": config.distillation.model_dump(mode="json"),
            "baseline": _baseline_numbers(job),
            "views": [config.views, config.view_size_px],
            "bank": _cache_terms(job),
            **_stain_terms(job),
        },
    )
    return TrainingRun(epochs, job.folder / "checkpoint.pt", digest)


def _cache_terms(job: StudentJob) -> list[object]:
    """Of the teacher cache: how many views, how exact, and of which patches."""
    section, table = job.config.teacher, _table(job)
    if not section.caches:
        return []
    rows = table.row_digest() if table else ""
    return [section.views, section.cache_precision, rows]


def _stain_terms(job: StudentJob) -> dict[str, object]:
    """Of the colours that patches get; nothing where they keep theirs."""
    section = job.config.data.stain_normalisation
    return {} if section is None else {"stain": asdict(stain_target(section))}


def _baseline_numbers(job: StudentJob) -> dict[str, object]:
    if job.method == "moma":
        return {}
    return job.config.baseline_settings.model_dump(mode="json")


def _teacher_identity(job: StudentJob) -> list[str]:
    section = job.config.teacher
    schedule = section.schedule if section.mode != "frozen" else ""
    identity = [job.card.digest, section.mode, schedule, job.scenario.name]
    if job.config.task.classes and job.scenario.class_order is not None:
        identity.append(str(job.scenario.class_order.tolist()))
    if section.is_remote and section.is_updated:
        identity += [section.batch_norm, str(section.sync_every_steps)]
    return identity


def _digest(index: PatchIndex) -> str:
    """Of labels, splits and patients: other ones are another run."""
    digest = hashlib.sha256()
    for column in (index.labels, index.splits, index.patients):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _evaluator(job: StudentJob, student: Encoder, normalise: Normalise) -> Evaluator:
    config = job.config
    return Evaluator(student, normalise, config.view_size_px, config.task.ordered)


class _Measured(NamedTuple):
    """What was measured, and on whom, by split."""

    evaluations: dict[str, Evaluation]
    cohorts: dict[str, Cohort]

    def outcome(self, patches: int, weights: Weights, model: str) -> StudentOutcome:
        """Returns it with what else a round gives; figures are `<split>_<figure>`."""
        figures = {
            name: value
            for split, found in self.evaluations.items()
            for name, value in found.values(f"{split}_").items()
        }
        return StudentOutcome(
            figures, patches, weights, model, self.cohorts, self.evaluations
        )


def _evaluations(
    job: StudentJob, callback: SiteCallback, evaluator: Evaluator, source: PatchSource
) -> _Measured:
    """Validation every round; the unseen split once, when all tuning is over."""
    splits = [VALIDATION] if job.task.kind == "train" else [VALIDATION, UNSEEN]
    unknown = job.config.egress.counted_as(job.config.data)
    evaluations: dict[str, Evaluation] = {}
    cohorts: dict[str, Cohort] = {}
    for split in splits:
        counted = CountedSource(source, unknown)
        found = evaluator.measure(counted, split, stopped=callback.stopped)
        _logger.info("%s, %s: %s", job.method, split, found.summary())
        evaluations[split] = found
        cohorts[split] = counted.cohort()
    return _Measured(evaluations, cohorts)


def _card(
    job: StudentJob, student: Backbone, source: PatchSource, *, steps: int
) -> StudentCard:
    stain = job.config.data.stain_normalisation
    return StudentCard(
        method=job.method,
        digest="",  # of the file, once it is written
        architecture=student.architecture,
        class_names=source.class_names,
        view_size_px=job.config.view_size_px,
        mean=student.mean,
        std=student.std,
        teacher=job.card.name if job.has_teacher else "",
        teacher_digest=job.card.digest if job.has_teacher else "",
        scenario=str(job.scenario) if job.has_teacher else "",
        steps=steps,
        teacher_licence=job.card.licence if job.has_teacher else None,
        decoding=DECODING,
        resolution_mpp=view_mpp(source, job.config.view_size_px),
        stain_normalisation=None if stain is None else stain_target(stain),
    )


def _tensors(weights: Weights) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in weights.items()}


def weights_of(student: Encoder) -> Weights:
    """Returns a student's weights as they would travel."""
    return {
        name: tensor.detach().cpu().numpy().copy()
        for name, tensor in student.state_dict().items()
    }
