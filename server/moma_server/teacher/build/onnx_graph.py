"""The layer before the logits of an ONNX classifier, shown as an output of its own.

A classifier that others wrote mostly gives its logits alone; what its last linear layer
takes is the embedding.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from moma_core.errors import ConfigError, listed, quoted
from moma_server.teacher.inference.files import FileRunner, open_file

_LINEAR = {"Gemm", "MatMul"}
_AFTER_LINEAR = {"Add", "Identity", "LogSoftmax", "Sigmoid", "Softmax"}


def open_with_embedding(path: Path, device: torch.device) -> tuple[FileRunner, str]:
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
        save_with_outputs(path, (name,), shown)
        return open_file("onnx", shown, device), name


def save_with_outputs(path: Path, names: tuple[str, ...], target: Path) -> None:
    """Copies a file, with tensors of its graph among its outputs.

    Args:
        path: An ONNX file.
        names: Of outputs, or of tensors inside; without these the file is copied as it
            is. An empty name is none.
        target: The copy.

    Raises:
        ConfigError: No such tensor is there.
    """
    import onnx

    model = onnx.load(
        str(path), load_external_data=False
    )  # it was refused if it has any
    shown = {each.name for each in model.graph.output}
    more = {name for name in names if name} - shown
    if not more:
        shutil.copyfile(path, target)
        return
    inside = {each for node in model.graph.node for each in node.output}
    for name in sorted(more):
        if name not in inside:
            raise ConfigError(
                f"the file has no output {quoted(name)} and no tensor of this name; "
                f"it has {listed(sorted(shown))}"
            )
        # without a type, which the runtime finds by itself
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
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
