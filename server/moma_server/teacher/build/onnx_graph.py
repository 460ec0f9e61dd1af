"""The layer before the logits of an ONNX classifier, shown as an output of its own.

A classifier that others wrote mostly gives its logits alone; what its last linear layer
takes is the embedding.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from moma_core.errors import ConfigError, listed
from moma_server.teacher.inference.arrays import Runner
from moma_server.teacher.inference.files import open_file

_LINEAR = {"Gemm", "MatMul"}
_AFTER_LINEAR = {"Add", "Identity", "LogSoftmax", "Softmax"}


def open_with_embedding(path: Path, device: torch.device) -> tuple[Runner, str]:
    """Opens a file, and returns the name of the embedding that it did not show.

    Args:
        path: An ONNX file.
        device: Where it runs.

    Raises:
        ConfigError: It cannot be read.
    """
    runner = open_file("onnx", path, device)
    name = _before_logits(path) if len(runner.outputs) == 1 else ""
    if not name:
        return runner, ""
    with TemporaryDirectory() as folder:
        shown = Path(folder) / "model.onnx"
        save_with_output(path, name, shown)
        return open_file("onnx", shown, device), name


def save_with_output(path: Path, name: str, target: Path) -> None:
    """Copies a file, with a tensor of its graph among its outputs.

    Args:
        path: An ONNX file.
        name: Of an output, or of a tensor inside; empty: the file is copied as it is.
        target: The copy.

    Raises:
        ConfigError: No such tensor is there.
    """
    import onnx

    model = onnx.load(
        str(path), load_external_data=False
    )  # it was refused if it has any
    shown = {each.name for each in model.graph.output}
    if not name or name in shown:
        shutil.copyfile(path, target)
        return
    inside = [each for node in model.graph.node for each in node.output]
    if name not in inside:
        raise ConfigError(
            f"the file has no output {name!r} and no tensor of this name; it has "
            f"{listed(sorted(shown))}"
        )
    kind = onnx.TensorProto.FLOAT
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    onnx.save(model, str(target))


def _before_logits(path: Path) -> str:
    """Returns what the last linear layer takes; empty: there is none."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    makers: dict[str, Any] = {each: n for n in graph.node for each in n.output}
    name = graph.output[0].name
    while name in makers and makers[name].op_type in _AFTER_LINEAR:
        name = next((each for each in makers[name].input if each in makers), "")
    if name not in makers or makers[name].op_type not in _LINEAR:
        return ""
    taken = str(makers[name].input[0])
    return taken if taken in makers else ""
