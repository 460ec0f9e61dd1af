"""Where an ONNX teacher runs, by what its runtime offers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from moma_core.errors import ConfigError
from moma_server.teacher.inference.files import open_file

onnx = pytest.importorskip("onnx", reason="onnx is the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="as onnx")

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that gives what it takes."""
    shape = ["n", 3, 16, 16]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name in ("images", "features")
    ]
    node = onnx.helper.make_node("Identity", ["images"], ["features"])
    graph = onnx.helper.make_graph([node], "same", ends[:1], ends[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


class Session:
    """A session of a machine with a GPU."""

    asked: list[str]

    def __init__(self, path: str, options: object, *, providers: list[str]) -> None:
        assert Path(path).is_file()
        assert options is not None
        type(self).asked = providers

    def get_providers(self) -> list[str]:
        return self.asked

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="images")]


@pytest.mark.parametrize(("device", "asked"), [("cuda", [CUDA, CPU]), ("cpu", [CPU])])
def test_a_gpu_is_used_where_the_runtime_offers_it_and_it_is_wanted(
    file: Path, monkeypatch: pytest.MonkeyPatch, device: str, asked: list[str]
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)

    open_file("onnx", file, torch.device(device))

    assert Session.asked == asked


def test_a_runtime_without_cuda_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])

    with pytest.raises(ConfigError, match="pip install onnxruntime-gpu"):
        open_file("onnx", file, torch.device("cuda"))


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_cuda_that_cannot_be_started_is_not_replaced_in_silence(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this runtime has CUDA")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])

    with pytest.raises(ConfigError, match="has CUDA and cannot start it"):
        open_file("onnx", file, torch.device("cuda"))
