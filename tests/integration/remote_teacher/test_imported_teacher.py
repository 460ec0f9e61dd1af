"""A site learns from a foundation model: embeddings alone, under budget and receipt."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moma_client.teacher.onboarding import check_reference_patch
from moma_client.teacher.terms import check_terms
from moma_core.distillation.scenario import SiteTask, choose_scenario
from moma_core.errors import TermsError
from moma_server.config.import_recipe import ImportRecipe
from moma_server.teacher.build.from_model import teacher_from_model
from moma_server.teacher.build.presets import PRESETS
from moma_server.teacher.inference.backend import TeacherBackend
from moma_server.teacher.role import rules_of
from tests.support.federation.pki import Pki
from tests.support.site.remote_teacher import Site, batches, running
from tests.support.site.tiny_site import local_config
from tests.support.teacher.imported import (
    NAMES,
    SIDE_PX,
    VIT_ARGS,
    normalised,
    served,
    server_section,
    vit,
)


@pytest.fixture
def backend(tmp_path: Path) -> TeacherBackend:
    save_file(vit().state_dict(), tmp_path / "w.safetensors")
    values = {
        **NAMES,
        "model": str(tmp_path / "w.safetensors"),
        "backend": {
            "kind": "timm",
            "architecture": "vit_tiny_patch16_224",
            "model_args": VIT_ARGS,
            "pooling": "cls+mean",
        },
        "card": {"licence": PRESETS["virchow2"].licence.model_dump()},
    }
    recipe = ImportRecipe.model_validate(values)
    teacher_from_model(recipe, tmp_path / "made", torch.device("cpu"))
    return served(tmp_path, tmp_path / "made")


def test_a_site_gets_the_embeddings_of_the_makers_model(
    tmp_path: Path, pki: Pki, backend: TeacherBackend
) -> None:
    asked = list(batches([3], SIDE_PX))
    rules = rules_of(server_section(tmp_path, tmp_path / "made"), backend.card)

    with running(tmp_path / "teacher", pki, backend, rules=rules) as teacher_server:
        site = Site(tmp_path / "site", pki, teacher_server.port)
        with site.teacher() as teacher:
            card = teacher.describe()
            check_reference_patch(card, teacher)
            ((_, output),) = teacher.answer_batches(asked)
            charged = teacher.budget().charged_patches

    pixels = asked[0].views.permute(0, 2, 3, 1).numpy()
    with torch.inference_mode():
        tokens = vit().forward_features(normalised(pixels))
    expected = torch.cat([tokens[:, 0], tokens[:, 3:].mean(1)], dim=1)
    assert output is not None
    np.testing.assert_allclose(output.embedding, expected, rtol=1e-4, atol=1e-4)
    assert output.logits.shape == (3, 0)
    assert (card.outputs, card.pooling) == (("embedding",), "cls+mean")
    assert charged == 1 + 3
    scenario = choose_scenario(SiteTask("colon", "tissue types", ("a", "b")), card)
    assert scenario.class_order is None


def test_a_licence_that_forbids_derived_models_is_read_before_the_first_query(
    tmp_path: Path, backend: TeacherBackend
) -> None:
    config = local_config(tmp_path)

    with pytest.raises(TermsError, match="nothing was sent") as refused:
        check_terms(backend.card, config.teacher)

    assert "NO DERIVATIVES" in str(refused.value)
