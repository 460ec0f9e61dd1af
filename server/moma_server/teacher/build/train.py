"""Trains a teacher on an institution's own labelled patches: weights and their card.

It trains with cross-entropy alone, by the very step that the students take.
"""

import json
import logging
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from moma_core.data.augment.recipe import recipe_named
from moma_core.data.loader import TrainingBatches
from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION, PatchSource
from moma_core.data.sources.factory import open_source
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import Distiller
from moma_core.evaluation.membership_inference import membership_advantage
from moma_core.evaluation.metrics import evaluate_split
from moma_core.evaluation.reference_embeddings import reference_embedding
from moma_core.models.backbone import Backbone, Normalise, create_backbone
from moma_core.models.encoder import Encoder
from moma_core.models.weights import save_weights
from moma_core.policy.coverage import FEWEST_REFERENCE_PATCHES, CoverageMap
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.local import AbsentTeacher
from moma_core.training.best import Measure
from moma_core.training.devices import batch_settings, make_fabric
from moma_core.training.record import TrainingRecord
from moma_core.training.settings import former_defaults, run_digest
from moma_core.training.trainer import Trainer, TrainingCallback, TrainingRun
from moma_server.config.recipe import TeacherRecipe
from moma_server.teacher.build.card import build_card

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainedTeacher:
    """A new teacher.

    Args:
        card: Card of the teacher.
        figures: Its figures by split and name, for example `validation_macro_f1`.
    """

    card: TeacherCard
    figures: dict[str, float]


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
    source = open_source(recipe.labelled_data())
    record = TrainingRecord(
        folder, recipe.name, recipe.training, logs_progress=logs_progress
    )
    with closing(record):
        trained = _train(recipe, source, folder, callback, record)
    figures = trained.figures(callback)
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    advantage = trained.membership_advantage(callback)
    digest = save_weights(trained.model, folder / "weights.safetensors")
    card = build_card(recipe, source.class_names, trained.model, digest)
    card = replace(card, membership_advantage=advantage)
    card.save(folder / "card.json")
    trained.save_coverage_map(folder, digest)
    return TrainedTeacher(card, figures)


def _train(
    recipe: TeacherRecipe,
    source: PatchSource,
    folder: Path,
    callback: TrainingCallback,
    record: TrainingRecord,
) -> "_Trained":
    fabric = make_fabric(recipe.training)
    fabric.launch()
    model = create_backbone(recipe.model, len(source.class_names))
    normalise = Normalise(model.mean, model.std)
    trainer = Trainer(
        fabric,
        Distiller(model, DistillationSettings()),
        normalise,
        _batches(recipe, source, fabric),
        recipe.training,
        _run(recipe, folder),
    )
    trainer.resume()
    record.start(trainer.step)
    trainer.train(
        AbsentTeacher(),
        until_epoch=recipe.epochs,
        callback=callback,
        record=record,
        measure=_measure(recipe, normalise, source, callback),
    )
    model.load_state_dict(trainer.student.state_dict())
    if recipe.training.keep == "best" and trainer.best.weights:
        model.load_state_dict(trainer.best.weights)
    return _Trained(recipe, source, model)


def _measure(
    recipe: TeacherRecipe,
    normalise: Normalise,
    source: PatchSource,
    callback: TrainingCallback,
) -> Measure:
    """Returns what says how good a network is on the validation split."""
    name, size = f"{VALIDATION}_{recipe.training.keep_by}", recipe.view_size_px

    def measure(network: Encoder) -> float | None:
        figures = evaluate_split(
            network, normalise, source, VALIDATION, size, stopped=callback.stopped
        )
        return figures.get(name)

    return measure


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
    faster = set(getattr(recipe.data, "only_faster", ()))
    rest = recipe.model_dump(
        mode="json", exclude={"training": True, "card": True, "data": faster}
    )
    return TrainingRun(
        recipe.epochs,
        folder / "checkpoint.pt",
        run_digest(recipe.training, rest),
        run_digest(former_defaults(recipe.training), rest),
    )


class _Trained:
    """A trained network, and what is measured of it on the data that it comes from."""

    def __init__(
        self, recipe: TeacherRecipe, source: PatchSource, model: Backbone
    ) -> None:
        device = next(model.parameters()).device
        self.model = model
        normalise = Normalise(model.mean, model.std).to(device)
        self._seed = recipe.training.seed
        self._on = (model, normalise, source)
        self._size = recipe.view_size_px

    def figures(self, callback: TrainingCallback) -> dict[str, float]:
        figures: dict[str, float] = {}
        for split in (VALIDATION, UNSEEN):
            figures |= evaluate_split(
                *self._on, split, self._size, stopped=callback.stopped
            )
        return figures

    def membership_advantage(self, callback: TrainingCallback) -> float | None:
        found = membership_advantage(
            *self._on, self._size, seed=self._seed, stopped=callback.stopped
        )
        return None if found is None else round(found, 4)

    def save_coverage_map(self, folder: Path, digest: str) -> None:
        """Writes `coverage.safetensors`, unless there are too few patches for one."""
        embedding = reference_embedding(*self._on, self._size, seed=self._seed)
        if len(embedding) < FEWEST_REFERENCE_PATCHES:
            _logger.warning(
                "no coverage map: it needs %d patches, there are %d",
                FEWEST_REFERENCE_PATCHES,
                len(embedding),
            )
            return
        coverage = CoverageMap.of_reference(embedding, digest, seed=self._seed)
        coverage.save(folder / "coverage.safetensors")
