"""Files of tensors of other makers become teachers that answer as their makers' do."""

import pickle
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from moma_core.errors import ConfigError, MismatchError
from moma_core.teacher.card.card import TeacherCard
from moma_server.cli.main import main
from moma_server.config.import_recipe import ImportRecipe
from moma_server.teacher.build.from_model import ImportedTeacher, teacher_from_model
from moma_server.teacher.inference.backend import TorchBackend
from tests.support.teacher.imported import (
    CLASSES,
    NAMES,
    VIT_ARGS,
    normalised,
    patches,
    served,
    server_section,
    vit,
)

CPU = torch.device("cpu")
BACKEND = {
    "kind": "timm",
    "architecture": "vit_tiny_patch16_224",
    "model_args": VIT_ARGS,
    "pooling": "cls+mean",
}


def _recipe(model: Path, **more: Any) -> ImportRecipe:
    values = {**NAMES, "model": str(model), "backend": BACKEND, **more}
    return ImportRecipe.model_validate(values)


def _imported(tmp_path: Path, recipe: ImportRecipe) -> ImportedTeacher:
    return teacher_from_model(recipe, tmp_path / "made", CPU)


def _cls_and_mean(tokens: Tensor) -> Tensor:
    """Of one class token, two registers and the patches: as Virchow2's card says."""
    return torch.cat([tokens[:, 0], tokens[:, 3:].mean(1)], dim=-1)


def test_a_vit_under_other_names_answers_as_its_makers_does(tmp_path: Path) -> None:
    model = vit()
    theirs = {
        f"module.trunk.{name.replace('blocks.', 'layers.')}": tensor
        for name, tensor in model.state_dict().items()
    }
    torch.save({"epoch": 3, "teacher": theirs}, tmp_path / "weights.pth")
    keys = {"strip": ["module.", "trunk."], "rename": {r"^layers\.": "blocks."}}

    made = _imported(tmp_path, _recipe(tmp_path / "weights.pth", keys=keys))

    with torch.inference_mode():
        expected = _cls_and_mean(model.forward_features(normalised(patches())))
    embedding, logits = served(tmp_path, tmp_path / "made").predict(patches())
    np.testing.assert_allclose(embedding, expected.numpy(), rtol=1e-4, atol=1e-4)
    assert logits.shape == (3, 0)
    assert made.card.embedding_length == 64
    assert (made.card.outputs, made.card.pooling) == (("embedding",), "cls+mean")
    assert made.card.architecture == "a model of others"


@pytest.mark.parametrize("pooling", ["head", "cls", "mean"])
def test_each_pooling_is_what_its_name_says(tmp_path: Path, pooling: str) -> None:
    model = vit()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    backend = {**BACKEND, "pooling": pooling}

    _imported(tmp_path, _recipe(tmp_path / "w.safetensors", backend=backend))

    with torch.inference_mode():
        tokens = model.forward_features(normalised(patches()))
    expected = tokens[:, 3:].mean(1) if pooling == "mean" else tokens[:, 0]
    embedding, _ = served(tmp_path, tmp_path / "made").predict(patches())
    np.testing.assert_allclose(embedding, expected.numpy(), rtol=1e-4, atol=1e-4)


def _theirs(model: Any) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in model.state_dict().items()}


def test_a_checkpoint_of_student_and_teacher_says_whose_weights_are_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = vit()
    content = {"student": _theirs(vit(seed=4)), "teacher": _theirs(model)}
    torch.save(content, tmp_path / "w.pth")
    out = tmp_path / "looked"
    line = ["teacher", "import", "--out", str(out), "--accelerator", "cpu"]

    assert main([*line, str(tmp_path / "w.pth"), "--architecture", "resnet18"]) == 0

    shown = capsys.readouterr().out
    assert "below 'teacher' were taken; the file has some below 'student'" in shown
    assert "mean, std: ImageNet's are a guess" in shown
    keys = ImportRecipe.from_yaml(out / "import.yaml").keys
    assert (keys.nested, keys.strip) == ("teacher", ("module.",))
    _imported(tmp_path, _recipe(tmp_path / "w.pth", keys=keys.model_dump()))
    with torch.inference_mode():
        expected = _cls_and_mean(model.forward_features(normalised(patches())))
    embedding, _ = served(tmp_path, tmp_path / "made").predict(patches())
    np.testing.assert_allclose(embedding, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_keys_are_left_out_by_their_names_without_prefixes(tmp_path: Path) -> None:
    more = {"module.decoder.weight": torch.zeros(2)}
    torch.save(_theirs(vit()) | more, tmp_path / "w.pth")
    keys = {"strip": ["module."], "drop": [r"^decoder\."]}

    made = _imported(tmp_path, _recipe(tmp_path / "w.pth", keys=keys))

    assert made.card.embedding_length == 64


def test_patches_of_a_side_that_the_network_does_not_take_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_hub_model(tmp_path)
    recipe = _recipe(tmp_path / "model.safetensors", keys={"strip": ["module."]})
    look = ["teacher", "import", str(tmp_path), "--out", str(tmp_path)]

    with pytest.raises(ConfigError, match=r"correct input_size_px$") as refused:
        _imported(tmp_path, recipe.model_copy(update={"input_size_px": 48}))
    assert main([*look, "--input-size-px", "48", "--accelerator", "cpu"]) == 0

    assert "\n" not in str(refused.value)
    assert "to correct   the network fails for 48 px" in capsys.readouterr().out


def test_a_classifier_on_pooled_tokens_comes_along(tmp_path: Path) -> None:
    model = vit()
    head = torch.nn.Linear(64, 2)
    weights = model.state_dict() | {
        f"head.{name}": tensor for name, tensor in head.state_dict().items()
    }
    save_file(weights, tmp_path / "w.safetensors")

    made = _imported(tmp_path, _recipe(tmp_path / "w.safetensors", class_names=CLASSES))

    with torch.inference_mode():
        expected = head(_cls_and_mean(model.forward_features(normalised(patches()))))
    _, logits = served(tmp_path, tmp_path / "made").predict(patches())
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-4, atol=1e-4)
    assert made.card.outputs == ("embedding", "logits")


def test_a_dinov2_file_gets_timms_names_and_grid(tmp_path: Path) -> None:
    model = vit(no_embed_class=True)
    weights = dict(model.state_dict())
    grid = weights.pop("pos_embed")
    theirs = {
        "mask_token": torch.zeros(1, 32),
        "register_tokens": weights.pop("reg_token"),
        # there the class token has a position of its own
        "cls_token": weights.pop("cls_token") - 0.5,
        "pos_embed": torch.cat([torch.full((1, 1, 32), 0.5), grid], dim=1),
    }
    for name, tensor in weights.items():
        name = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        theirs[name] = tensor
    torch.save(theirs, tmp_path / "dinov2.pth")
    args = {**VIT_ARGS, "no_embed_class": True}
    backend = {**BACKEND, "model_args": args}

    _imported(
        tmp_path,
        _recipe(tmp_path / "dinov2.pth", keys={"layout": "dinov2"}, backend=backend),
    )

    with torch.inference_mode():
        expected = _cls_and_mean(model.forward_features(normalised(patches())))
    embedding, _ = served(tmp_path, tmp_path / "made").predict(patches())
    np.testing.assert_allclose(embedding, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_what_decides_an_answer_decides_the_digest(tmp_path: Path) -> None:
    save_file(vit().state_dict(), tmp_path / "w.safetensors")
    _imported(tmp_path, _recipe(tmp_path / "w.safetensors"))
    made = tmp_path / "made"
    whole = {**BACKEND, "pooling": "cls"}

    with pytest.raises(ConfigError, match=r"says digest .*backend\.yaml"):
        served(tmp_path, made, backend=whole)
    card = (made / "card.json").read_text()
    (made / "card.json").write_text(card.replace("0.7", "0.6", 1))
    with pytest.raises(ConfigError, match="says digest"):
        served(tmp_path, made)


def test_a_reference_patch_that_is_answered_otherwise_is_not_served(
    tmp_path: Path,
) -> None:
    save_file(vit().state_dict(), tmp_path / "w.safetensors")
    _imported(tmp_path, _recipe(tmp_path / "w.safetensors"))
    card = TeacherCard.load(tmp_path / "made" / "card.json")
    assert card.golden is not None
    text = (tmp_path / "made" / "card.json").read_text()
    half = card.golden.embedding[: len(card.golden.embedding) // 2]
    swapped = card.golden.embedding.replace(half, half[8:] + half[:8])
    (tmp_path / "made" / "card.json").write_text(
        text.replace(card.golden.embedding, swapped)
    )

    with pytest.raises(MismatchError, match="the model is not the one of the card"):
        served(tmp_path, tmp_path / "made")


def test_only_a_plain_timm_network_can_be_moved(tmp_path: Path) -> None:
    save_file(vit().state_dict(), tmp_path / "w.safetensors")
    _imported(tmp_path, _recipe(tmp_path / "w.safetensors"))

    backend = served(tmp_path, tmp_path / "made")

    assert isinstance(backend, TorchBackend)
    with pytest.raises(ConfigError, match="momentum sessions need"):
        _ = backend.encoder


def test_a_plain_network_of_timm_can_be_moved(tmp_path: Path) -> None:
    model = timm.create_model("test_efficientnet", num_classes=2)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    plain = {"kind": "timm", "architecture": "test_efficientnet"}
    recipe = _recipe(tmp_path / "w.safetensors", backend=plain, class_names=("a", "b"))
    _imported(tmp_path, recipe)

    backend = served(tmp_path, tmp_path / "made")

    assert isinstance(backend, TorchBackend)
    assert backend.encoder.embedding_length == 256
    with torch.inference_mode():
        expected = model.eval()(normalised(patches()))
    np.testing.assert_allclose(
        backend.predict(patches())[1], expected.numpy(), rtol=1e-4, atol=1e-4
    )


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("run",)


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (
            lambda path: torch.save({"a": torch.zeros(1), "b": _Evil()}, path),
            "pickle of more than tensors",
        ),
        (lambda path: path.write_bytes(pickle.dumps(_Evil())), "more than tensors"),
        (
            lambda path: path.write_bytes(b"none"),
            "cannot read weights|more than tensors",
        ),
        (lambda path: torch.save({"epoch": 3}, path), "holds no tensors; it has epoch"),
        (
            lambda path: torch.save(
                {k.replace("qkv", "kqv"): v for k, v in vit().state_dict().items()},
                path,
            ),
            r"2 keys \(blocks\.0\.attn\.qkv.*nearest: blocks\.0\.attn\.qkv\.weight",
        ),
        (
            lambda path: torch.save(vit(reg_tokens=3).state_dict(), path),
            r"reg_token is \(1, 3, 32\) in the file and \(1, 2, 32\) in the model",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_a_sentence(
    tmp_path: Path, write: Any, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "w.pth")

    with pytest.raises(ConfigError, match=named) as refused:
        _imported(tmp_path, _recipe(tmp_path / "w.pth"))

    assert "\n" not in str(refused.value)
    assert "run" not in capsys.readouterr().out
    assert not (tmp_path / "made" / "card.json").exists()


@pytest.mark.parametrize(
    ("backend", "named"),
    [
        ({"model_args": {"mlp_layer": "mystery"}}, "known: mlp, glu, swiglu"),
        ({"model_args": {"act_layer": "mystery"}}, "no act_layer of name 'mystery'"),
        ({"model_args": {"checkpoint_path": "/x"}}, "is not the config's to choose"),
        ({"model_args": {"colour": 3}}, "cannot make a model"),
        ({"architecture": "resnet18", "model_args": {}}, "is of tokens"),
    ],
)
def test_arguments_that_make_no_network_are_refused(
    tmp_path: Path, backend: Any, named: str
) -> None:
    save_file(vit().state_dict(), tmp_path / "w.safetensors")
    recipe = _recipe(tmp_path / "w.safetensors", backend={**BACKEND, **backend})

    with pytest.raises(ConfigError, match=named):
        _imported(tmp_path, recipe)


def test_a_weight_of_nan_makes_no_teacher(tmp_path: Path) -> None:
    model = vit()
    weights = model.state_dict()
    weights["norm.weight"][3] = float("nan")
    save_file(weights, tmp_path / "w.safetensors")

    with pytest.raises(ConfigError, match="gives NaN or infinity"):
        _imported(tmp_path, _recipe(tmp_path / "w.safetensors"))


def _write_hub_model(hub: Path) -> Any:
    """A folder as a hub delivers it, whose tensors have a prefix."""
    model = vit()
    save_file(_theirs(model), hub / "model.safetensors")
    (hub / "config.json").write_text(
        '{"architecture": "vit_tiny_patch16_224", "model_args": '
        '{"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 1, '
        '"num_heads": 2, "init_values": 0.5, "reg_tokens": 2, "global_pool": "", '
        '"mlp_layer": "swiglu_packed", "act_layer": "silu"}, "pretrained_cfg": '
        '{"input_size": [3, 32, 32], "mean": [0.7, 0.6, 0.7], "std": [0.2, 0.25, 0.3]}}'
    )
    return model


def test_import_looks_writes_a_recipe_and_makes_a_teacher_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = tmp_path / "model"
    hub.mkdir()
    model = _write_hub_model(hub)
    out = tmp_path / "made"
    line = ["teacher", "import", "--out", str(out), "--accelerator", "cpu"]

    assert main([*line, str(hub)]) == 0
    shown = capsys.readouterr().out
    assert main([*line, "--recipe", str(out / "import.yaml")]) == 0

    for words in ("embedding    32 values", "parameters", "patches a second", "MiB"):
        assert words in shown
    recipe = ImportRecipe.from_yaml(out / "import.yaml")
    assert (recipe.keys.strip, recipe.mean) == (("module.",), (0.7, 0.6, 0.7))
    with torch.inference_mode():
        expected = model.forward_features(normalised(patches()))[:, 0]
    embedding, _ = served(tmp_path, out).predict(patches())
    np.testing.assert_allclose(embedding, expected.numpy(), rtol=1e-4, atol=1e-4)
    assert main([*line, str(hub)]) == 1  # a recipe that was corrected is not lost
    assert main([*line, "--recipe", str(out / "import.yaml")]) == 1


def test_a_name_of_the_hub_is_looked_up_on_this_disk_alone(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--somebody--vit"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    _write_hub_model(snapshot)
    line = ["teacher", "import", "--accelerator", "cpu"]

    assert main([*line, "hf-hub:nobody/nothing", "--out", str(tmp_path / "a")]) == 1
    assert main([*line, "hf-hub:somebody/vit", "--out", str(tmp_path / "b")]) == 0

    assert "not in this machine's hub cache" in caplog.text
    recipe = ImportRecipe.from_yaml(tmp_path / "b" / "import.yaml")
    assert recipe.model == (snapshot / "model.safetensors").resolve()


def test_an_imported_teacher_is_not_exported_as_one_of_ours(tmp_path: Path) -> None:
    save_file(vit().state_dict(), tmp_path / "w.safetensors")
    _imported(tmp_path, _recipe(tmp_path / "w.safetensors"))
    server_section(tmp_path, tmp_path / "made")
    config = str(tmp_path / "institution" / "server.yaml")

    line = ["teacher", "export", "--config", config, "--out", str(tmp_path / "out")]
    assert main(line) == 1
