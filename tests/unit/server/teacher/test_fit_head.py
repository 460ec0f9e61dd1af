"""A probe on an imported teacher's embeddings: fitted, served, audited."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moma_core.data.loader import evaluation_batches
from moma_core.data.patch import VALIDATION
from moma_core.data.sources.factory import open_source
from moma_core.distillation.scenario import SiteTask, choose_scenario
from moma_core.errors import ConfigError
from moma_core.models.probe import fit_probe, load_probe, save_probe
from moma_core.policy.coverage import CoverageMap
from moma_core.teacher.card.card import TeacherCard
from moma_server.cli.commands import card_lines
from moma_server.config.import_recipe import ImportRecipe
from moma_server.teacher.build.from_model import fit_head, teacher_from_model
from moma_server.teacher.inference.load import ProbedBackend
from moma_server.teacher.role import rules_of
from moma_server.teacher.settings import TeacherServerSettings, description_of
from tests.support.teacher.imported import (
    NAMES,
    VIT_ARGS,
    classifier,
    patches,
    served,
    server_section,
    vit,
)

CPU = torch.device("cpu")


def _recipe(tmp_path: Path, **more: Any) -> ImportRecipe:
    save_file(vit().state_dict(), tmp_path / "w.safetensors")
    backend = {
        "kind": "timm",
        "architecture": "vit_tiny_patch16_224",
        "model_args": VIT_ARGS,
        "pooling": "mean",
    }
    values = {**NAMES, "model": str(tmp_path / "w.safetensors"), "backend": backend}
    values["data"] = {"kind": "embedded", "part": "teacher"}
    return ImportRecipe.model_validate({**values, **more})


def test_a_magnification_written_as_microns_is_warned_of_at_import(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = _recipe(tmp_path, card={"mpp": 20}, data=None)

    teacher_from_model(recipe, tmp_path / "made", CPU)

    assert "card.mpp is 20 microns a pixel: is that a lens's" in caplog.text


@pytest.mark.parametrize("hidden", [0, 16])
def test_a_probe_gives_an_embedding_model_its_classes(
    tmp_path: Path, hidden: int
) -> None:
    recipe, made = _recipe(tmp_path), tmp_path / "made"
    teacher_from_model(recipe, made, CPU)
    before = TeacherCard.load(made / "card.json")
    assert (before.class_names, before.outputs) == ((), ("embedding",))
    source = open_source(recipe.data)

    after, files = fit_head(recipe, made, CPU, hidden=hidden)

    assert after.class_names == source.class_names
    assert after.outputs == ("embedding", "logits")
    assert after.digest != before.digest
    assert after.membership_advantage is not None
    assert CoverageMap.load(made / "coverage.safetensors", after.digest)
    lines = (made / "backend.yaml").read_text()
    assert f"# policy.coverage_map there: {made / 'coverage.safetensors'}" in lines
    assert files[-1] == made / "backend.yaml"
    backend = served(tmp_path, made)
    assert isinstance(backend, ProbedBackend)
    rows = source.index.rows(VALIDATION, labelled=True)
    right = [
        backend.predict(views.permute(0, 2, 3, 1).contiguous().numpy())[1].argmax(1)
        == labels.numpy()
        for views, labels in evaluation_batches(source, rows, view_size_px=32)
    ]
    chance = 1 / len(source.class_names)
    assert np.concatenate(right).mean() > chance + 0.1


def test_a_probe_takes_the_place_of_a_files_own_classes(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        classifier(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, tmp_path / "model.pt2")
    outputs = {"embedding": "0", "logits": "1"}
    recipe = _recipe(
        tmp_path,
        model=str(tmp_path / "model.pt2"),
        backend={"kind": "exported", "outputs": outputs},
        class_names=("a", "b"),
    )
    made = tmp_path / "made"
    teacher_from_model(recipe, made, CPU)

    card, _ = fit_head(recipe, made, CPU)

    assert len(card.class_names) == 4
    assert served(tmp_path, made).predict(patches())[1].shape == (3, 4)


def test_embeddings_alone_turn_the_kl_off_and_the_card_says_so(tmp_path: Path) -> None:
    recipe, made = _recipe(tmp_path, data=None), tmp_path / "made"
    teacher_from_model(recipe, made, CPU)
    backend = served(tmp_path, made)

    rules = rules_of(server_section(tmp_path, made), backend.card)
    card = description_of(TeacherServerSettings(rules=rules), backend).card

    assert card.outputs == ("embedding",)
    scenario = choose_scenario(SiteTask("colon", "tissue types", ()), card, "same")
    assert scenario.class_order is None
    assert any("embeddings alone" in line for line in card_lines(card))


def test_a_probe_is_refused_in_the_place_of_another(tmp_path: Path) -> None:
    recipe, made = _recipe(tmp_path), tmp_path / "made"
    teacher_from_model(recipe, made, CPU)
    fit_head(recipe, made, CPU)
    probe = load_probe(made / "head.safetensors", length=32, classes=4)
    with torch.no_grad():
        probe[0].bias.add_(1)
    save_probe(probe, made / "head.safetensors")

    with pytest.raises(ConfigError, match="says digest"):
        served(tmp_path, made)
    with pytest.raises(ConfigError, match="does not go from 31 values to 4 classes"):
        load_probe(made / "head.safetensors", length=31, classes=4)


def test_without_labelled_patches_there_is_no_probe(tmp_path: Path) -> None:
    recipe, made = _recipe(tmp_path, data=None), tmp_path / "made"
    teacher_from_model(recipe, made, CPU)

    with pytest.raises(ConfigError, match="names no data"):
        fit_head(recipe, made, CPU)


def test_a_hidden_layer_of_no_width_is_refused() -> None:
    clouds = torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])

    with pytest.raises(ConfigError, match="hidden layer is 0 or more, got -1"):
        fit_probe(clouds, clouds, classes=2, hidden=-1)


def test_a_linear_probe_finds_the_line_between_two_clouds() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    clouds = torch.randn(200, 3, generator=random) * 5 + 100
    clouds[:, 1] += 40.0 * labels

    probe = fit_probe(
        (clouds[:150], labels[:150]), (clouds[150:], labels[150:]), classes=2
    )

    assert (probe(clouds[150:]).argmax(1) == labels[150:]).float().mean() == 1
