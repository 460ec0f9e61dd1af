"""One call to distil a teacher into a student, and one to say how good it is.

The loop is the one that a hospital's site runs (`moma_core.training.trainer`); what a
site adds, a remote teacher, rounds and reports, is not here.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning_fabric import Fabric

from moma_core.data.augment.recipe import RecipeName, recipe_named
from moma_core.data.checks.rules import look_at_set
from moma_core.data.loader import BatchSettings, TrainingBatches
from moma_core.data.patch import SPLITS, TRAIN, PatchSource
from moma_core.distillation.methods.context import DistillationContext
from moma_core.distillation.methods.names import need_of
from moma_core.distillation.methods.registry import make_distiller
from moma_core.distillation.methods.settings import BaselineSettings
from moma_core.distillation.scenario import class_order
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.several import SeveralDistillers
from moma_core.distillation.step import Distiller, StepLosses
from moma_core.errors import ConfigError, DataError
from moma_core.evaluation.figures import Evaluation
from moma_core.evaluation.metrics import Evaluator
from moma_core.models.backbone import Backbone, Normalise
from moma_core.models.encoder import Encoder
from moma_core.models.reused_classifier import ProjectedEncoder
from moma_core.runtime.finding import heed
from moma_core.teacher.local import AbsentTeacher, FrozenTeacher, MomentumTeacher
from moma_core.teacher.protocol import Teacher
from moma_core.teacher.several import OneOfSeveral, SeveralTeachers
from moma_core.training.devices import batch_settings, make_fabric
from moma_core.training.settings import TrainingSettings
from moma_core.training.trainer import Trainer, TrainingRun

_logger = logging.getLogger(__name__)

OnStep = Callable[[int, int, StepLosses], None]
"""Called with the step, the number of steps, and the step's losses, detached."""

AnyTeacher = FrozenTeacher | MomentumTeacher | None


def distill(
    teacher: AnyTeacher | Sequence[FrozenTeacher],
    source: PatchSource,
    student: str | Backbone = "efficientnet_b0",
    *,
    method: str = "moma",
    settings: DistillationSettings | None = None,
    training: TrainingSettings | None = None,
    epochs: int = 5,
    views: RecipeName = "tissue",
    teacher_weights: Sequence[float] | None = None,
    on_step: OnStep | None = None,
) -> Encoder:
    """Trains a student on the training split of a source, and returns it.

    Classes of the same names are learned by the KL on logits, others by class centres.

    Args:
        teacher: Answers every view of every step; None for methods without one (`ce`);
            of several frozen ones the student learns at once.
        source: Labelled patches, and unlabelled ones, for the teacher's terms alone.
        student: A timm name, which starts from timm's ImageNet weights, or a network,
            which is trained in place, on views of its `view_size_px`.
        method: `moma`, one of the compared methods, or a registered one.
        settings: Of MoMA; None: the defaults that won on real tissue.
        training: Optimiser, batches, seed, device; None: the defaults.
        epochs: Passes over the unlabelled patches, or the labelled ones without any.
        views: The augmentation: `geometry_only` where the class is a colour.
        teacher_weights: Of several teachers' terms, divided by their sum; None: alike.
        on_step: Sees every step.

    Returns:
        The student in evaluation mode; its `view_size_px`, if none, of the first patch.

    Raises:
        ConfigError: Teacher, method and student do not fit each other.
        DataError: The source cannot be learned from: too few labels, or one class.
        TrainingError: The loss is not finite.
        ValueError: Settings of several devices, or weights that are not one a teacher.
    """
    training = training or TrainingSettings()
    fabric = _fabric_of(training)
    heed(look_at_set(source, figures_of={}, max_unreadable=None), _logger)
    if isinstance(student, str):
        student = Backbone.create(student, len(source.class_names))
    side = student.view_size_px or _side_of(source)
    teachers = _several(teacher)
    contexts = [_context(e, source, settings, training, side) for e in teachers]
    distiller = _distiller_of(method, student, contexts, teacher_weights)
    how = batch_settings(fabric, training, recipe_named(views), side)
    batches = _batches_of(source, how, distils=distiller.distils)
    normalise = Normalise(student.mean, student.std)
    answering = _all_answering(teachers, distiller, fabric)
    with TemporaryDirectory(prefix="moma-") as folder:
        run = TrainingRun(epochs, Path(folder) / "checkpoint.pt", run="")
        trainer = Trainer(fabric, distiller, normalise, batches, training, run)
        trainer.train(answering, until_epoch=epochs, callback=_Callback(on_step))
    trained = distiller.student.eval()
    trained.view_size_px = side
    return trained


def evaluate(
    student: Encoder,
    source: PatchSource,
    split: str = "validation",
    *,
    is_ordered: bool = False,
) -> Evaluation:
    """Returns a student's figures on the labelled patches of a split.

    The figures are those of `moma_core.evaluation.metrics.evaluate`, each with the
    number of its patches and a 95 % interval by patients, else slides, else patches,
    which takes up to some seconds. `print` shows them; `figures["macro_f1"]` is one,
    and `values()` has all as numbers, but those without a value, which say why.

    Args:
        student: As `distill` returns it.
        source: Has the classes that the student was trained on.
        split: `train`, `validation` or `unseen`.
        is_ordered: Whether the classes are grades in their order: kappa is quadratic.

    Raises:
        DataError: The split has no labelled patch, or patches cannot be read.
    """
    if split not in SPLITS:
        raise DataError(f"no split {split!r}, only {', '.join(SPLITS)}")
    if not len(source.index.rows(split, labelled=True)):
        raise DataError(f"the split {split!r} has no labelled patch")
    device = next(student.parameters()).device
    body = student.body if isinstance(student, ProjectedEncoder) else student
    if not isinstance(body, Backbone):
        raise TypeError(f"a {type(body).__name__} does not say how pixels are scaled")
    evaluator = Evaluator(
        student,
        Normalise(body.mean, body.std).to(device),
        student.view_size_px or _side_of(source),
        is_ordered,
    )
    return evaluator.measure(source, split, stopped=lambda: False)


class _Callback:
    """Passes steps on, and never stops a run."""

    def __init__(self, on_step: OnStep | None) -> None:
        self._on_step = on_step

    def stopped(self) -> bool:
        return False

    def after_step(self, step: int, steps: int, losses: StepLosses) -> None:
        if self._on_step is not None:
            self._on_step(step, steps, losses)


def _side_of(source: PatchSource) -> int:
    height, width, _ = source.read(0).pixels.shape
    return int(min(height, width))


def _fabric_of(training: TrainingSettings) -> Fabric:
    if training.devices > 1:
        raise ValueError(f"distill trains on one device, not {training.devices}")
    torch.manual_seed(training.seed)
    fabric = make_fabric(training)
    fabric.launch()
    return fabric


def _several(
    teacher: AnyTeacher | Sequence[FrozenTeacher],
) -> tuple[AnyTeacher, ...]:
    if not isinstance(teacher, Sequence):
        return (teacher,)
    if not all(isinstance(each, FrozenTeacher) for each in teacher):
        raise ConfigError("of several teachers each is a FrozenTeacher: none can move")
    return tuple(teacher) or (None,)


def _distiller_of(
    method: str,
    student: Backbone,
    contexts: Sequence[DistillationContext],
    weights: Sequence[float] | None,
) -> Distiller:
    """Returns a method's step, with a distiller a teacher where there are several."""
    given = [1.0] * len(contexts) if weights is None else list(weights)
    if len(given) != len(contexts) or min(given) <= 0:
        raise ValueError(
            f"teacher_weights are one above 0 for each of {len(contexts)} teachers, "
            f"got {given}"
        )
    if len(contexts) == 1 or need_of(method) == "nothing":
        return make_distiller(method, student, contexts[0])
    if need_of(method) != "outputs":
        raise ConfigError(f"{method} needs the inside of one teacher, give it one")
    made = [make_distiller(method, student, context) for context in contexts]
    names = [f"teacher-{number}" for number in range(1, len(made) + 1)]
    shares = [each / sum(given) for each in given]
    return SeveralDistillers(
        student,
        dict(zip(names, made, strict=True)),
        dict(zip(names, shares, strict=True)),
    )


def _context(
    teacher: AnyTeacher,
    source: PatchSource,
    settings: DistillationSettings | None,
    training: TrainingSettings,
    view_size_px: int,
) -> DistillationContext:
    """Returns what a method must know; without a teacher, of an empty one."""
    names = () if teacher is None else tuple(teacher.class_names)
    encoder = None if teacher is None else teacher.encoder
    return DistillationContext(
        settings=settings or DistillationSettings(),
        baseline_settings=BaselineSettings(),
        teacher_length=1 if encoder is None else encoder.embedding_length,
        teacher_classes=0 if encoder is None else encoder.classes,
        class_order=class_order(source.class_names, names, {}),
        teacher=encoder,
        training_rows=torch.from_numpy(source.index.rows(TRAIN, labelled=None)),
        batch_size=training.batch_size,
        view_size_px=view_size_px,
        seed=training.seed,
    )


def _batches_of(
    source: PatchSource, settings: BatchSettings, *, distils: bool
) -> TrainingBatches:
    """Without a teacher: as many steps, on full batches of labels, as a site does."""
    labelled = source.index.rows(TRAIN, labelled=True)
    whole = TrainingBatches(
        source,
        labelled_rows=labelled,
        unlabelled_rows=source.index.rows(TRAIN, labelled=False),
        settings=settings,
    )
    if distils:
        return whole
    alone = replace(settings, steps_per_epoch=whole.steps_per_epoch)
    return TrainingBatches(
        source, labelled_rows=labelled, unlabelled_rows=labelled[:0], settings=alone
    )


def _all_answering(
    teachers: Sequence[AnyTeacher], distiller: Distiller, fabric: Fabric
) -> Teacher | SeveralTeachers:
    parts = [_answering(each, distiller, fabric) for each in teachers]
    if not isinstance(distiller, SeveralDistillers):
        return parts[0]
    return SeveralTeachers([OneOfSeveral(each, None) for each in parts])


def _answering(teacher: AnyTeacher, distiller: Distiller, fabric: Fabric) -> Teacher:
    if teacher is None:
        return AbsentTeacher()
    if isinstance(teacher, FrozenTeacher):
        teacher.maps = distiller.needs_maps
    return teacher.to(fabric.device)
