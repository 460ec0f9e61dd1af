"""Trains a teacher on an institution's own labelled patches: weights and their card.

It trains with cross-entropy alone, by the very step that the students take.
"""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from moma_core.data.augment.recipe import recipe_named
from moma_core.data.checks.layout import look_at_files
from moma_core.data.checks.pictures import look_at_pictures
from moma_core.data.checks.rules import look_at_set, look_at_views
from moma_core.data.loader import TrainingBatches
from moma_core.data.patch import TRAIN, VALIDATION, PatchSource
from moma_core.data.resolution import is_other_mpp, look_at_mpp, stated_mpp
from moma_core.data.sources.factory import DataSection, open_pictures, open_source
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import Distiller
from moma_core.evaluation.figures import Evaluation
from moma_core.evaluation.metrics import validation_measure
from moma_core.federation.schedule import FEWEST_STEPS
from moma_core.models.backbone import Backbone, Normalise, create_backbone
from moma_core.models.view_size import check_takes_views
from moma_core.models.weights import save_weights
from moma_core.runtime.finding import Finding, heed
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.local import AbsentTeacher
from moma_core.training.devices import batch_settings, make_fabric
from moma_core.training.plausible import look_at_training, look_at_warmup
from moma_core.training.record import TrainingRecord
from moma_core.training.settings import former_defaults, run_digest
from moma_core.training.trainer import Trainer, TrainingCallback, TrainingRun
from moma_server.config.recipe import TeacherRecipe
from moma_server.teacher.build.card import build_card
from moma_server.teacher.build.measures import (
    TeacherMeasures,
    figures_as_json,
    save_figures,
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainedTeacher:
    """A new teacher.

    Args:
        card: Card of the teacher.
        evaluations: What was measured of it, by split.
    """

    card: TeacherCard
    evaluations: dict[str, Evaluation]

    def as_json(self) -> dict[str, Any]:
        """Returns its figures, for example `validation_macro_f1`, and their details."""
        return figures_as_json(self.evaluations)


def train_teacher(
    recipe: TeacherRecipe,
    folder: Path,
    callback: TrainingCallback,
    *,
    logs_progress: bool = True,
) -> TrainedTeacher:
    """Trains, evaluates and writes weights, card, figures and the coverage map.

    Stopped in between, the same call goes on.

    Args:
        recipe: Data, model, training and terms.
        folder: Where the files go.
        callback: Watches the training, and may stop it.
        logs_progress: Whether the log says how it goes; not beside a terminal's bar.

    Raises:
        StoppedError: The callback asked for it.
        MomaError: Data or training do not allow it.
    """
    torch.manual_seed(recipe.training.seed)
    data = recipe.labelled_data()
    source = open_source(data)
    heed(_look_at_patches(recipe, data, source), _logger)
    record = TrainingRecord(
        folder, recipe.name, recipe.training, logs_progress=logs_progress
    )
    with closing(record):
        model = _train(recipe, source, folder, callback, record)
    measures = _measures(recipe, source, model)
    evaluations = measures.evaluations(callback.stopped)
    save_figures(evaluations, folder)
    advantage = measures.membership_advantage(callback.stopped)
    digest = save_weights(model, folder / "weights.safetensors")
    card = build_card(recipe, source.class_names, model, digest)
    card = replace(card, membership_advantage=advantage)
    card.save(folder / "card.json")
    measures.save_coverage_map(folder, digest)
    return TrainedTeacher(card, evaluations)


def _measures(
    recipe: TeacherRecipe, source: PatchSource, model: Backbone
) -> TeacherMeasures:
    normalise = Normalise(model.mean, model.std).to(next(model.parameters()).device)
    return TeacherMeasures(
        model,
        normalise,
        source,
        recipe.view_size_px,
        seed=recipe.training.seed,
        is_ordered=recipe.ordered,
    )


def _train(
    recipe: TeacherRecipe,
    source: PatchSource,
    folder: Path,
    callback: TrainingCallback,
    record: TrainingRecord,
) -> Backbone:
    fabric = make_fabric(recipe.training)
    fabric.launch()
    model = create_backbone(recipe.model, len(source.class_names))
    check_takes_views(model, recipe.view_size_px, "model")
    batches = _batches(recipe, source, fabric)
    heed(_look_at_epochs(recipe, batches.steps_per_epoch), _logger)
    normalise = Normalise(model.mean, model.std)
    trainer = Trainer(
        fabric,
        Distiller(model, DistillationSettings()),
        normalise,
        batches,
        recipe.training,
        _run(recipe, folder),
    )
    trainer.resume()
    record.start(trainer.step)
    size, by = recipe.view_size_px, recipe.training.keep_by
    measure = validation_measure(normalise, source, size, by, stopped=callback.stopped)
    trainer.train(
        AbsentTeacher(),
        until_epoch=recipe.epochs,
        callback=callback,
        record=record,
        measure=measure,
    )
    model.load_state_dict(trainer.student.state_dict())
    if recipe.training.keep == "best" and trainer.best.weights:
        model.load_state_dict(trainer.best.weights)
    return model


def _look_at_patches(
    recipe: TeacherRecipe, data: DataSection, source: PatchSource
) -> Iterator[Finding]:
    """Yields whether the patches can be learned from, and what may be a slip.

    Args:
        recipe: How the teacher is made.
        data: Its patches.
        source: The same, opened.
    """
    key, files = recipe.training.validates_by, open_pictures(data)
    wanted = {} if key is None else {VALIDATION: key}
    most = data.max_unreadable
    yield from look_at_set(source, figures_of=wanted, max_unreadable=most)
    patches = len(source.index.rows(TRAIN))
    yield from look_at_training(recipe.training, patches=patches)
    yield from look_at_views(data.kind, recipe.views)
    yield from _look_at_resolution(recipe, source)
    if files is not None:
        yield from look_at_files(data, files)
    yield from look_at_pictures(
        source,
        files,
        view_size_px=recipe.view_size_px,
        max_unreadable=most,
    )


def _look_at_resolution(
    recipe: TeacherRecipe, source: PatchSource
) -> Iterator[Finding]:
    """Yields whether the card will say at which resolution the patches were cut."""
    own, said = stated_mpp(source), recipe.card.mpp
    yield from look_at_mpp("card.mpp is", said)
    if own is None or (said is not None and not is_other_mpp(own, said)):
        return
    text = (
        f"patches state {own:g} microns a pixel, and card.mpp "
        f"{'nothing' if said is None else f'{said:g}'}: set card.mpp: {own:g}, so that "
        f"a site with other patches is warned"
    )
    yield Finding("resolution", "warning", text)


def _look_at_epochs(recipe: TeacherRecipe, steps_per_epoch: int) -> Iterator[Finding]:
    """Yields whether the recipe's epochs are enough to learn anything."""
    steps = recipe.epochs * steps_per_epoch
    yield from look_at_warmup(recipe.training, steps)
    if steps >= FEWEST_STEPS:
        return
    needed = -(-FEWEST_STEPS // steps_per_epoch)
    text = (
        f"{steps} in {recipe.epochs} epochs of {steps_per_epoch}: a teacher that took "
        f"fewer than {FEWEST_STEPS} knows little; set epochs: {needed} or more, or add "
        f"patches"
    )
    yield Finding("steps", "warning", text, facts={"steps": steps})


def _batches(
    recipe: TeacherRecipe, source: PatchSource, fabric: Fabric
) -> TrainingBatches:
    return TrainingBatches(
        source,
        labelled_rows=source.index.rows(TRAIN, labelled=True),
        unlabelled_rows=np.empty(0, np.int64),
        settings=batch_settings(
            fabric, recipe.training, recipe_named(recipe.views), recipe.view_size_px
        ),
    )


def _run(recipe: TeacherRecipe, folder: Path) -> TrainingRun:
    faster = {*getattr(recipe.data, "only_faster", ()), "stain_normalisation"}
    rest = recipe.model_dump(
        mode="json",
        exclude={"training": True, "card": True, "ordered": True, "data": faster},
    )
    return TrainingRun(
        recipe.epochs,
        folder / "checkpoint.pt",
        run_digest(recipe.training, rest),
        run_digest(former_defaults(recipe.training), rest),
    )
