"""The students of a trial: one at each site, all from one start."""

import hashlib
import json

import numpy as np
import torch

from benchmarks.quality.mixed_answers import MixedAnswers
from benchmarks.quality.rows import Row
from benchmarks.quality.teachers import ARCHITECTURE
from benchmarks.quality.tissue import Tissue
from benchmarks.quality.training import BATCH_SIZE, VIEW_SIZE_PX, Share
from benchmarks.quality.trials import ROWS, Trial
from moma_core.distillation.methods.context import DistillationContext
from moma_core.distillation.methods.registry import make_distiller
from moma_core.distillation.methods.settings import BaselineSettings
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import Distiller
from moma_core.models.backbone import Backbone, create_backbone
from moma_core.models.settings import ModelSection

SMALL_ARCHITECTURE = "mobilenetv3_small_050"
# A positive's negatives are drawn from some 400 patches, not from ImageNet.
_CRD_NEGATIVES = 256
# More keys than a trial enqueues: none is ever overwritten, and a step is faster. The
# weights that ship are what tuning made of 1.
_UNTUNED = {
    "other_classes": "ignored",
    "fallback": "none",  # a row asks its teacher, however irrelevant it is
    "bank_size": 4096,
    "contrastive_weight": 1.0,
    "distillation_weight": 1.0,
}


def make_student(
    trial: Trial, row: Row, tissue: Tissue, share: Share, encoder: Backbone
) -> Distiller:
    """Returns a row's method around a new student.

    Args:
        trial: What.
        row: Its row.
        tissue: Gives the classes.
        share: What it trains on.
        encoder: The teacher.
    """
    classes = len(tissue.source.class_names)
    torch.manual_seed(trial.seed)  # every row starts from one student
    section = (
        ModelSection(architecture=ARCHITECTURE, weights="packaged")
        if trial.student == "imagenet"
        else ModelSection(architecture=SMALL_ARCHITECTURE, weights="random")
    )
    student = create_backbone(section, classes)
    context = DistillationContext(
        settings=settings_of(row, trial.scale),
        baseline_settings=_numbers(trial),
        teacher_length=encoder.embedding_length,
        teacher_classes=encoder.classifier.out_features,  # type: ignore[arg-type]
        class_order=(
            torch.arange(classes) if trial.scenario in ("same", "weak") else None
        ),
        teacher=encoder,
        training_rows=torch.from_numpy(np.concatenate(share)),
        batch_size=BATCH_SIZE,
        view_size_px=VIEW_SIZE_PX,
        seed=trial.seed,
    )
    distiller = make_distiller(row.method, student, context)
    if not row.mixed_answers:
        return distiller
    return MixedAnswers(distiller, row.mixed_answers, trial.seed)


def settings_of(row: Row, scale: float) -> DistillationSettings:
    """Returns MoMA's numbers for a row, contrast and KL times `scale`."""
    start = (
        DistillationSettings.published() if row.published else DistillationSettings()
    )
    values = {**start.model_dump(), **_UNTUNED, **row.changes}
    if row.method == "moma":
        values["contrastive_weight"] *= scale
        values["distillation_weight"] *= scale
    return DistillationSettings(**values)


def fingerprint(trial: Trial) -> str:
    """Returns a digest of a trial's settings: a line of other settings is stale."""
    row = ROWS[trial.row]
    settings = settings_of(row, trial.scale), _numbers(trial)
    text = "".join(
        json.dumps(one.without_added(), separators=(",", ":")) for one in settings
    )
    text += repr((row.method, row.views, row.labelled_share, row.moving))
    if row.training:
        text += repr(sorted(row.training.items()))
    if row.mixed_answers:
        text += repr(row.mixed_answers)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _numbers(trial: Trial) -> BaselineSettings:
    return BaselineSettings(weight_scale=trial.scale, crd_negatives=_CRD_NEGATIVES)
