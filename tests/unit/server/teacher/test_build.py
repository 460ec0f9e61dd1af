import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from moma_core.errors import ConfigError, MomaError
from moma_core.models.backbone import Backbone
from moma_core.models.weights import load_weights
from moma_core.policy.coverage import CoverageMap
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.reference_patch import synthetic_patch
from moma_server.cli.training_progress import ProgressCallback
from moma_server.config.recipe import TeacherRecipe
from moma_server.teacher.build.card import build_card
from moma_server.teacher.build.train import train_teacher
from moma_server.teacher.inference.backend import TorchBackend
from tests.support.machine.pictures import write_picture

RECIPE = {
    "name": "teacher-a",
    "organ": "colon",
    "task": "stain",
    "data": {"kind": "embedded", "part": "teacher"},
    "views": "geometry_only",
    "view_size_px": 32,
    "model": {"architecture": "test_efficientnet", "weights": "random"},
    "epochs": 1,
    "training": {"batch_size": 16, "threads": 1, "accelerator": "cpu"},
}


VIT = {"architecture": "vit_tiny_patch16_224", "weights": "random"}


def test_a_new_teachers_card_carries_its_membership_audit(tmp_path: Path) -> None:
    recipe = TeacherRecipe.model_validate(RECIPE)

    made = train_teacher(recipe, tmp_path, ProgressCallback(None))

    card = TeacherCard.load(tmp_path / "card.json")
    assert card == made.card
    assert card.membership_advantage is not None
    assert -1 <= card.membership_advantage <= 1
    coverage = CoverageMap.load(tmp_path / "coverage.safetensors", card.digest)
    assert coverage.planes.shape[1] == card.embedding_length


def test_a_new_teachers_card_states_its_terms_and_a_golden_patch(
    tmp_path: Path,
) -> None:
    pixels = synthetic_patch(5, 32)
    Image.fromarray(pixels).save(tmp_path / "golden.png")
    terms = {
        "stain": "IHC",
        "mpp": 0.5,
        "golden_patch": str(tmp_path / "golden.png"),
        "licence": {"name": "CC-BY-NC-4.0", "may_publish": True},
    }
    recipe = TeacherRecipe.model_validate({**RECIPE, "card": terms})

    train_teacher(recipe, tmp_path, ProgressCallback(None))

    card = TeacherCard.load(tmp_path / "card.json")
    assert (card.stain, card.mpp, card.pooling) == ("IHC", 0.5, "avg")
    assert card.licence is not None
    assert card.licence.name == "CC-BY-NC-4.0"
    assert card.licence.may_publish
    assert not card.licence.may_sell
    assert card.golden is not None
    assert np.array_equal(card.golden.pixels(32), pixels)
    model = Backbone(card.architecture, len(card.class_names))
    load_weights(model, tmp_path / "weights.safetensors")
    backend = TorchBackend(model.eval(), card, torch.device("cpu"))
    embedding, logits = backend.predict(np.stack([pixels, pixels]))
    card.golden.check(embedding[1], logits[1])


def test_a_golden_patch_of_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "golden.png"
    Image.fromarray(synthetic_patch(5, 16)).save(path)
    terms = {"golden_patch": str(path)}
    recipe = TeacherRecipe.model_validate({**RECIPE, "card": terms})
    model = Backbone("test_efficientnet", 2)

    with pytest.raises(ConfigError, match=r"card\.golden_patch .* 16x16"):
        build_card(recipe, ("a", "b"), model, "0" * 64)


def test_a_teachers_training_can_be_followed_and_its_best_epoch_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = {"log_every_seconds": 0.001, "record_every_steps": 2, "keep": "best"}
    training = {**RECIPE["training"], **watched}  # type: ignore[dict-item]
    recipe = TeacherRecipe.model_validate({**RECIPE, "epochs": 2, "training": training})

    with caplog.at_level(logging.INFO, "moma_core.training.record"):
        made = train_teacher(recipe, tmp_path, ProgressCallback(None))

    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    weights = load_file(tmp_path / "weights.safetensors")
    assert "teacher-a: step 1 of " in caplog.text
    assert (tmp_path / "metrics.csv").read_text().startswith("time,step,epoch,")
    assert all(
        torch.equal(weights[name], tensor)
        for name, tensor in state["best"]["weights"].items()
    )
    found = made.evaluations["validation"].values()["macro_f1"]
    assert found == pytest.approx(state["best"]["figure"])


def _folder(root: Path, classes: int, *, per_class: int = 12) -> dict[str, object]:
    for label in range(classes):
        for number in range(per_class):
            place = root / f"class {label}"
            picture = place / f"p{number}_{label}.png"
            write_picture(picture, seed=100 * label + number, side_px=32)
    return {"kind": "image_folder", "root": str(root), "patient_pattern": "(p[0-9]+)"}


@pytest.mark.parametrize(
    ("change", "classes", "said"),
    [
        ({"model": VIT}, 2, "model.architecture 'vit_tiny_patch16_224' takes no views"),
        ({}, 1, "of one class, 'class 0'"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence_before_training(
    tmp_path: Path, change: dict[str, object], classes: int, said: str
) -> None:
    data = _folder(tmp_path / "patches", classes)
    recipe = TeacherRecipe.model_validate({**RECIPE, "data": data, **change})

    with pytest.raises(MomaError) as refused:
        train_teacher(recipe, tmp_path / "out", ProgressCallback(None))

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_teachers_patches_are_looked_at_as_a_sites_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = _folder(tmp_path / "patches", 2)
    write_picture(tmp_path / "patches" / "class 0" / "p90.png", seed=3, side_px=32)
    recipe = TeacherRecipe.model_validate({**RECIPE, "data": data})
    (tmp_path / "out").mkdir()

    train_teacher(recipe, tmp_path / "out", ProgressCallback(None))

    logged = " | ".join(record.getMessage() for record in caplog.records)
    assert "classes: few labelled patches" in logged
    assert "1 in 1 epochs of 1" in logged or "2 in 1 epochs of 2" in logged
    assert "set epochs: " in logged


def test_a_magnification_written_as_microns_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = _folder(tmp_path / "patches", 2)  # which state no resolution
    values = {**RECIPE, "data": data, "card": {"mpp": 20}}
    (tmp_path / "out").mkdir()

    train_teacher(
        TeacherRecipe.model_validate(values), tmp_path / "out", ProgressCallback(None)
    )

    (line,) = [line for line in caplog.messages if line.startswith("resolution: ")]
    assert "card.mpp is 20 microns a pixel: is that a lens's magnification" in line


@pytest.mark.parametrize(
    ("said", "warning"),
    [
        (None, "0.25 microns a pixel, and card.mpp nothing: set card.mpp: 0.25"),
        (0.5, "0.25 microns a pixel, and card.mpp 0.5: set card.mpp: 0.25"),
        (0.26, ""),
    ],
)
def test_a_card_that_is_silent_of_the_patches_resolution_is_warned_of(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    said: float | None,
    warning: str,
) -> None:
    _folder(tmp_path / "patches", 2)
    names = sorted((tmp_path / "patches").glob("*/*.png"))
    rows = [f"{x.parent.name}/{x.name},{x.parent.name},{x.stem},0.25" for x in names]
    manifest = tmp_path / "patches" / "manifest.csv"
    manifest.write_text("\n".join(["path,label,patient_id,mpp", *rows]) + "\n")
    data = {"kind": "csv_manifest", "path": str(manifest)}
    values = {**RECIPE, "data": data, "card": {"mpp": said}}
    (tmp_path / "out").mkdir()

    train_teacher(
        TeacherRecipe.model_validate(values), tmp_path / "out", ProgressCallback(None)
    )

    logged = [line for line in caplog.messages if line.startswith("resolution: ")]
    assert len(logged) == bool(warning)
    assert all(warning in line for line in logged)
