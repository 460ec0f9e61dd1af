"""Tensors that are written otherwise than most are read; what is no model is told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moma_core.errors import ConfigError
from moma_core.models.checkpoints import guessed_keys, misfit, read_checkpoint
from moma_server.config.import_recipe import ImportRecipe
from moma_server.teacher.build.from_model import teacher_from_model
from tests.support.teacher.imported import (
    NAMES,
    VIT_ARGS,
    look,
    normalised,
    patches,
    served,
    vit,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_other_types_answer_as_themselves_in_float32(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    model = vit()
    theirs = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    save_file(theirs, tmp_path / "w.safetensors")
    backend = {"kind": "timm", "architecture": "vit_tiny_patch16_224"}
    values = {
        **NAMES,
        "model": str(tmp_path / "w.safetensors"),
        "backend": {**backend, "model_args": VIT_ARGS, "pooling": "cls"},
    }

    teacher_from_model(ImportRecipe.model_validate(values), tmp_path / "made", CPU)
    embedding, _ = served(tmp_path, tmp_path / "made").predict(patches())

    model.load_state_dict(theirs)
    with torch.inference_mode():
        expected = model.forward_features(normalised(patches()))[:, 0]
    np.testing.assert_allclose(embedding, expected, rtol=1e-4, atol=1e-4)


def test_a_name_does_not_decide_what_a_file_of_tensors_is(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2)}
    save_file(tensors, tmp_path / "pytorch_model.bin")
    torch.save(tensors, tmp_path / "model.safetensors")

    found = read_checkpoint(tmp_path / "pytorch_model.bin").tensors

    assert found["a"].tolist() == [1, 1]
    with pytest.raises(ConfigError, match=r"what torch\.save wrote is named \.pth"):
        read_checkpoint(tmp_path / "model.safetensors")


def test_tensors_two_dictionaries_deep_are_found_and_named(tmp_path: Path) -> None:
    body = {"a": torch.ones(2), "b": torch.ones(2)}
    network = {"backbone": body, "head": {"w": torch.zeros(1)}}
    state = {"state": {0: {"exp_avg": torch.zeros(2)}}}
    content = {"student": network, "teacher": network, "optimizer": state}
    torch.save(content, tmp_path / "w.pth")

    found = read_checkpoint(tmp_path / "w.pth")

    assert (found.nested, set(found.tensors)) == ("teacher.backbone", {"a", "b"})
    assert found.others == ("student.backbone", "student.head", "teacher.head")
    named = read_checkpoint(tmp_path / "w.pth", "student.backbone")
    assert set(named.tensors) == {"a", "b"}
    with pytest.raises(ConfigError, match=r"no tensors below 'teacher'.*backbone"):
        read_checkpoint(tmp_path / "w.pth", "teacher")


def test_one_dictionary_in_many_places_is_not_looked_through_without_end(
    tmp_path: Path,
) -> None:
    content: dict[str, Any] = {str(number): number for number in range(300)}
    for _ in range(2):
        content = dict.fromkeys(content, content)
    torch.save(content, tmp_path / "w.pth")

    with pytest.raises(ConfigError, match="more than 1,000,000 keys"):
        read_checkpoint(tmp_path / "w.pth")


def test_the_nearest_is_of_the_first_key_that_is_like_any() -> None:
    strange = {name: torch.zeros(1) for name in ("zzz", "layers.0.norm1.weight")}
    own = {"blocks.0.norm1.weight": torch.zeros(1)}

    fault = misfit(strange, own)

    assert "nearest to layers.0.norm1.weight: blocks.0.norm1.weight" in fault


def test_a_backbone_beside_a_head_of_training_is_taken() -> None:
    names = ("backbone.cls_token", "backbone.norm.weight", "head.mlp.0.bias")
    tensors = {f"module.{name}": torch.zeros(1) for name in names}

    keys = guessed_keys(tensors, classes=0)

    assert keys.strip == ("module.", "backbone.")
    assert keys.drop == (r"(^|\.)head\.",)


def _empty(folder: Path) -> Path:
    (folder / "model.pt").touch()
    return folder / "model.pt"


def _pointer(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\n")
    return path


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        (_empty, (), "model.pt is empty"),
        (_pointer, (), "`git lfs pull` fetches it"),
        ("MahmoodLab/UNI", (), "a model of the hub is named hf-hub:OWNER/NAME"),
        ("hf-hub:../../etc", (), "'hf-hub:../../etc' is no name of the hub"),
        ("hf-hub:", (), "'hf-hub:' is no name of the hub"),
        ("grpc://127.0.0.1/uni", (), "cannot ask grpc://127.0.0.1/uni: address: "),
        ("model.onnx", ("--input-size-px", "-5"), "16 to 1024 px, got -5"),
    ],
)
def test_what_is_no_model_is_one_sentence(
    tmp_path: Path,
    model: Any,
    more: tuple[str, ...],
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    named = model if isinstance(model, str) else model(tmp_path)

    assert look(named, tmp_path / "made", *more) == 1

    (record,) = caplog.records
    assert said in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"mean": [123.7, 116.3, 103.5]}, "of pixels from 0 to 1.*divide both by 255"),
        ({"keys": {"rename": {"a": "\\9"}}}, "replaces nothing: invalid group"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(
    value: dict[str, Any], said: str
) -> None:
    backend = {"kind": "timm", "architecture": "resnet18"}

    with pytest.raises(ValueError, match=said):
        ImportRecipe.model_validate(
            {**NAMES, "model": "w.pth", "backend": backend, **value}
        )


@pytest.mark.parametrize("argument", [{"num_heads": 0}, {"patch_size": 0}])
def test_an_argument_of_zero_makes_no_network(
    tmp_path: Path, argument: dict[str, int]
) -> None:
    save_file(vit().state_dict(), tmp_path / "w.safetensors")
    backend = {"kind": "timm", "architecture": "vit_tiny_patch16_224"}
    values = {
        **NAMES,
        "model": str(tmp_path / "w.safetensors"),
        "backend": {**backend, "model_args": {**VIT_ARGS, **argument}},
    }

    with pytest.raises(ConfigError, match="cannot make a model of architecture"):
        teacher_from_model(ImportRecipe.model_validate(values), tmp_path / "made", CPU)


def test_a_file_in_the_place_of_the_teachers_folder_is_one_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(vit().state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "made").touch()

    line = ("--architecture", "vit_tiny_patch16_224")
    assert look(tmp_path / "w.safetensors", tmp_path / "made", *line) == 1

    assert str(tmp_path / "made") in caplog.records[-1].getMessage()
