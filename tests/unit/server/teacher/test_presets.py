"""Each foundation model's preset, on a small network of random weights.

What is expected is computed as the maker's page says to, with timm alone.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from moma_core.models.token_pool import PooledBackbone
from moma_core.teacher.card.licence import terms_lines
from moma_server.config.import_recipe import ImportRecipe
from moma_server.teacher.build.from_model import teacher_from_model
from moma_server.teacher.build.inspection import ImportSetup, inspect_model
from moma_server.teacher.build.presets import PRESETS
from tests.support.teacher.imported import normalised, patches, served

CPU = torch.device("cpu")
SIDE_PX = 28 * 4  # a multiple of patches of 14 and of 16
SWIGLU: dict[str, Any] = {
    "mlp_layer": timm.layers.SwiGLUPacked,
    "act_layer": nn.SiLU,
}
TINY = {"depth": 1, "embed_dim": 48, "num_heads": 2, "img_size": SIDE_PX}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BIOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
LUNIT = (
    (0.70322989, 0.53606487, 0.66096631),
    (0.21716536, 0.26081574, 0.20723464),
)


def _cls(tokens: Tensor) -> Tensor:
    return tokens[:, 0]


def _virchow(tokens: Tensor) -> Tensor:
    return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=-1)


def _virchow2(tokens: Tensor) -> Tensor:
    return torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], dim=-1)


# name: timm's name and arguments as the page has them, pooling, mean and std
PAGES: Mapping[str, tuple[str, Mapping[str, Any], Callable[[Tensor], Tensor], Any]] = {
    "uni": (
        "vit_large_patch16_224",
        {"init_values": 1e-5, "dynamic_img_size": True},
        _cls,
        IMAGENET,
    ),
    "uni2-h": (
        "vit_giant_patch14_224",
        {
            "patch_size": 14,
            "init_values": 1e-5,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
            "dynamic_img_size": True,
            **SWIGLU,
        },
        _cls,
        IMAGENET,
    ),
    "virchow": (
        "vit_huge_patch14_224",
        {"init_values": 1e-5, "mlp_ratio": 5.3375, **SWIGLU},
        _virchow,
        IMAGENET,
    ),
    "virchow2": (
        "vit_huge_patch14_224",
        {"init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4, **SWIGLU},
        _virchow2,
        IMAGENET,
    ),
    "h-optimus-0": (
        "vit_giant_patch14_reg4_dinov2",
        {"init_values": 1e-5, "dynamic_img_size": False},
        _cls,
        BIOPTIMUS,
    ),
    "h-optimus-1": (
        "vit_giant_patch14_reg4_dinov2",
        {"init_values": 1e-5, "dynamic_img_size": False},
        _cls,
        BIOPTIMUS,
    ),
    "prov-gigapath": (
        "vit_giant_patch14_dinov2",
        {"patch_size": 16, "init_values": 1e-5, "mlp_ratio": 5.33334},
        _cls,
        IMAGENET,
    ),
    "lunit-dino": ("vit_small_patch16_224", {}, _cls, LUNIT),
}


def _small(name: str) -> ImportRecipe:
    """Returns the preset's recipe with a network of one narrow block."""
    preset = PRESETS[name]
    values = {
        "name": "teacher-a",
        "organ": "colon",
        "task": "tissue types",
        "shown_as": preset.title,
        "model": "w.safetensors",
        "keys": {"layout": preset.layout},
        "backend": {
            "kind": "timm",
            "architecture": preset.architecture,
            "model_args": {**preset.model_args, **TINY},
            "pooling": preset.pooling,
        },
        "input_size_px": SIDE_PX,
        "mean": preset.mean,
        "std": preset.std,
        "card": {"licence": preset.licence.model_dump()},
    }
    return ImportRecipe.model_validate(values)


def _filled(model: nn.Module) -> nn.Module:
    torch.manual_seed(7)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def _embedding(tmp_path: Path, name: str, weights: dict[str, Tensor]) -> Any:
    save_file(weights, tmp_path / "w.safetensors")
    recipe = _small(name).model_copy(update={"model": tmp_path / "w.safetensors"})
    teacher_from_model(recipe, tmp_path / "made", CPU)
    backend = served(tmp_path, tmp_path / "made")
    return backend.predict(patches(2, SIDE_PX))[0]


@pytest.mark.parametrize("name", PAGES)
def test_a_preset_answers_as_its_makers_page_says(tmp_path: Path, name: str) -> None:
    architecture, arguments, pool, (mean, std) = PAGES[name]
    model: Any = _filled(
        timm.create_model(architecture, num_classes=0, **{**arguments, **TINY})
    )

    embedding = _embedding(tmp_path, name, model.state_dict())

    images = normalised(patches(2, SIDE_PX), mean, std)
    with torch.inference_mode():
        expected = pool(model.forward_features(images)).numpy()
    np.testing.assert_allclose(embedding, expected, rtol=1e-4, atol=1e-4)


class _TransformersLayer(nn.Module):
    """One block of ViT or Dinov2 as the library transformers spells it."""

    def __init__(self, weights: dict[str, Tensor], *, dinov2: bool) -> None:
        super().__init__()
        self.weights = weights
        self.dinov2 = dinov2

    def _linear(self, name: str, values: Tensor) -> Tensor:
        name = f"encoder.layer.0.{name}"
        return F.linear(
            values, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        )

    def _norm(self, name: str, values: Tensor) -> Tensor:
        return F.layer_norm(
            values,
            (48,),
            self.weights[f"{name}.weight"],
            self.weights[f"{name}.bias"],
            1e-6,
        )

    def _heads(self, name: str, values: Tensor) -> Tensor:
        found = self._linear(f"attention.attention.{name}", values)
        return found.unflatten(2, (2, 24)).transpose(1, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        first, second = (
            ("norm1", "norm2")
            if self.dinov2
            else ("layernorm_before", "layernorm_after")
        )
        normed = self._norm(f"encoder.layer.0.{first}", tokens)
        query, key, value = (
            self._heads(part, normed) for part in ("query", "key", "value")
        )
        shares = (query @ key.transpose(2, 3) / 24**0.5).softmax(dim=-1)
        mixed = (shares @ value).transpose(1, 2).flatten(2)
        tokens = tokens + self._scale(1) * self._linear("attention.output.dense", mixed)
        normed = self._norm(f"encoder.layer.0.{second}", tokens)
        inner, outer = (
            ("mlp.fc1", "mlp.fc2")
            if self.dinov2
            else ("intermediate.dense", "output.dense")
        )
        return tokens + self._scale(2) * self._linear(
            outer, F.gelu(self._linear(inner, normed))
        )

    def _scale(self, place: int) -> Tensor:
        if not self.dinov2:
            return torch.ones(())
        return self.weights[f"encoder.layer.0.layer_scale{place}.lambda1"]


def _transformers_weights(*, dinov2: bool) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(11)
    inner, outer, *norms = (
        ("mlp.fc1", "mlp.fc2", "norm1", "norm2")
        if dinov2
        else (
            "intermediate.dense",
            "output.dense",
            "layernorm_before",
            "layernorm_after",
        )
    )
    attention = (
        *(f"attention.attention.{part}" for part in ("query", "key", "value")),
        "attention.output.dense",
    )
    layers = dict.fromkeys(attention, (48, 48)) | {inner: (192, 48), outer: (48, 192)}
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, 48),
        "embeddings.position_embeddings": (1, 1 + (SIDE_PX // 16) ** 2, 48),
        "embeddings.patch_embeddings.projection.weight": (48, 3, 16, 16),
        "embeddings.patch_embeddings.projection.bias": (48,),
    }
    for name, shape in layers.items():
        shapes[f"encoder.layer.0.{name}.weight"] = shape
        shapes[f"encoder.layer.0.{name}.bias"] = shape[:1]
    for name in ("layernorm", *(f"encoder.layer.0.{norm}" for norm in norms)):
        shapes |= {f"{name}.weight": (48,), f"{name}.bias": (48,)}
    if dinov2:
        scales = (f"encoder.layer.0.layer_scale{place}.lambda1" for place in (1, 2))
        shapes |= {"embeddings.mask_token": (1, 48), **dict.fromkeys(scales, (48,))}
    return {
        name: torch.randn(shape, generator=random) * 0.2
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("name", ["phikon", "phikon-v2"])
def test_a_preset_of_transformers_answers_as_that_network_does(
    tmp_path: Path, name: str
) -> None:
    dinov2 = name == "phikon-v2"
    weights = _transformers_weights(dinov2=dinov2)
    images = normalised(patches(2, SIDE_PX), *IMAGENET)
    tokens = F.conv2d(
        images,
        weights["embeddings.patch_embeddings.projection.weight"],
        weights["embeddings.patch_embeddings.projection.bias"],
        stride=16,
    )
    tokens = torch.cat(
        [
            weights["embeddings.cls_token"].expand(2, -1, -1),
            tokens.flatten(2).transpose(1, 2),
        ],
        dim=1,
    )
    layer = _TransformersLayer(weights, dinov2=dinov2)
    tokens = layer(tokens + weights["embeddings.position_embeddings"])
    expected = layer._norm("layernorm", tokens)[:, 0].numpy()

    embedding = _embedding(tmp_path, name, weights)

    np.testing.assert_allclose(embedding, expected, rtol=1e-4, atol=1e-4)


# embedding length, millions of parameters: of the network at its own size
SIZES = {
    "uni": (1024, 303),
    "uni2-h": (1536, 681),
    "virchow": (2560, 631),
    "virchow2": (2560, 631),
    "h-optimus-0": (1536, 1135),
    "h-optimus-1": (1536, 1135),
    "phikon": (768, 86),
    "phikon-v2": (1024, 303),
    "prov-gigapath": (1536, 1135),
    "lunit-dino": (384, 22),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_preset_has_the_size_that_its_makers_name(name: str) -> None:
    preset = PRESETS[name]

    with torch.device("meta"):  # shapes alone: no gigabytes
        network = PooledBackbone(
            preset.architecture, 0, preset.model_args, preset.pooling
        )

    millions = sum(each.numel() for each in network.parameters()) / 1e6
    assert (network.embedding_length, round(millions)) == SIZES[name]


def test_at_least_eight_models_say_where_they_are_documented() -> None:
    assert len(PRESETS) >= 8
    assert set(PRESETS) == {*PAGES, "phikon", "phikon-v2"}
    assert all(each.source.startswith("https://") for each in PRESETS.values())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("uni", "trained on outputs of the model"),
        ("uni2-h", "trained on outputs of the model"),
        ("virchow2", "trained on outputs of the model"),
        ("h-optimus-1", "NO DERIVATIVES"),
        ("prov-gigapath", "provide it as a hosted solution for others"),
    ],
)
def test_a_licence_that_forbids_derived_models_says_so_to_sites(
    name: str, said: str
) -> None:
    licence = PRESETS[name].licence.as_licence()

    lines = list(terms_lines("teacher-a", licence))

    assert any(said in line for line in lines)
    assert licence.forbids_derived_models
    assert not licence.may_publish
    assert not licence.may_sell


def test_a_preset_names_the_page_of_its_own_licence() -> None:
    pages = [each.licence.text for each in PRESETS.values()]

    assert len(set(pages)) == len(pages) - 1  # Virchow and H-optimus-0: Apache-2.0


def test_a_resolution_that_its_makers_name_is_on_the_card() -> None:
    named = {name: each.mpp for name, each in PRESETS.items() if each.mpp is not None}

    assert named == dict.fromkeys(
        ("h-optimus-0", "h-optimus-1", "phikon", "prov-gigapath"), 0.5
    )


def test_a_preset_fills_the_recipe(tmp_path: Path) -> None:
    torch.save({"pos_embed": torch.zeros(1, 197, 8)}, tmp_path / "pytorch_model.bin")
    setup = ImportSetup(
        model=str(tmp_path / "pytorch_model.bin"),
        name="teacher-a",
        organ="colon",
        task="tissue types",
        preset="lunit-dino",
    )

    found = inspect_model(setup, CPU)

    recipe: Any = found.recipe
    assert (recipe.shown_as, recipe.mean) == ("Lunit DINO ViT-S/16", LUNIT[0])
    assert recipe.backend.pooling == "cls"
    assert recipe.card.mpp is None
    assert "non-commercial" in recipe.card.licence.name
    assert "of the model not in the file" in found.faults[0]
