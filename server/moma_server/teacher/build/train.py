"""Makes a teacher from an institution's own labelled patches: weights and their card.

It trains with cross-entropy alone, by the very step that the students take.
"""

import json
import logging
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
from moma_core.models.weights import save_weights
from moma_core.policy.coverage import FEWEST_REFERENCE_PATCHES, CoverageMap
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.local import AbsentTeacher
from moma_core.training.settings import run_digest
from moma_core.training.trainer import (
    Trainer,
    TrainingCallback,
    TrainingRun,
    batch_settings,
    make_fabric,
)
from moma_server.config.recipe import TeacherRecipe
from moma_server.teacher.build.card import make_card

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MadeTeacher:
    """A new teacher.

    Args:
        card: Its card.
        figures: Of it, by split and name, for example `validation_macro_f1`.
    """

    card: TeacherCard
    figures: dict[str, float]


def make_teacher(
    recipe: TeacherRecipe, folder: Path, watch: TrainingCallback
) -> MadeTeacher:
    """Trains, evaluates and writes weights, card, figures and the coverage map.

    Stopped in between, the same call goes on.

    Raises:
        StoppedError: The watch asked for it.
        MomaError: Data or training do not allow it.
    """
    torch.manual_seed(recipe.training.seed)
    source = open_source(recipe.labelled_data())
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
        _plan(recipe, folder),
    )
    trainer.resume()
    trainer.train(AbsentTeacher(), until_epoch=recipe.epochs, watch=watch)

    figures: dict[str, float] = {}
    size = recipe.view_size_px
    for split in (VALIDATION, UNSEEN):
        figures |= evaluate_split(
            model, normalise, source, split, size, stopped=watch.stopped
        )
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    audited = _audited(recipe, source, model, watch)
    digest = save_weights(model, folder / "weights.safetensors")
    made = make_card(recipe, source.class_names, model, digest)
    card = replace(made, membership_advantage=audited)
    card.save(folder / "card.json")
    _save_coverage_map(recipe, source, model, folder, digest)
    return MadeTeacher(card, figures)


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


def _plan(recipe: TeacherRecipe, folder: Path) -> TrainingRun:
    rest = recipe.model_dump(mode="json", exclude={"training", "card"})
    digest = run_digest(recipe.training, rest)
    return TrainingRun(recipe.epochs, folder / "checkpoint.pt", digest)


def _audited(
    recipe: TeacherRecipe, source: PatchSource, model: Backbone, watch: TrainingCallback
) -> float | None:
    device = next(model.parameters()).device
    found = membership_advantage(
        model,
        Normalise(model.mean, model.std).to(device),
        source,
        recipe.view_size_px,
        seed=recipe.training.seed,
        stopped=watch.stopped,
    )
    return None if found is None else round(found, 4)


def _save_coverage_map(
    recipe: TeacherRecipe,
    source: PatchSource,
    model: Backbone,
    folder: Path,
    digest: str,
) -> None:
    """Writes `coverage.safetensors`, unless there are too few patches for one."""
    normalise = Normalise(model.mean, model.std).to(next(model.parameters()).device)
    embedding = reference_embedding(
        model, normalise, source, recipe.view_size_px, seed=recipe.training.seed
    )
    if len(embedding) < FEWEST_REFERENCE_PATCHES:
        _logger.warning(
            "no coverage map: it needs %d patches, there are %d",
            FEWEST_REFERENCE_PATCHES,
            len(embedding),
        )
        return
    coverage = CoverageMap.of_reference(embedding, digest, seed=recipe.training.seed)
    coverage.save(folder / "coverage.safetensors")
