"""No library tells its maker anything unasked once `moma_core` is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is the extra onnx")

_RUN_A_MODEL = """
import {first}
import onnxruntime
from onnx import TensorProto, helper

row = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
graph = helper.make_graph(
    [helper.make_node("Relu", ["x"], ["y"])], "g", [row("x")], [row("y")]
)
model = helper.make_model(
    graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
)
onnxruntime.InferenceSession(
    model.SerializeToString(), providers=["CPUExecutionProvider"]
)
"""


def test_onnxruntime_makes_no_number_of_the_machine_to_tell_its_maker(
    tmp_path: Path,
) -> None:
    """It makes one before it sends anything, in its user's folder of caches."""
    suppressed = {"CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    environment = {k: v for k, v in os.environ.items() if k not in suppressed}

    subprocess.run(
        [sys.executable, "-c", _RUN_A_MODEL.format(first="moma_core")],
        env=environment | {"HOME": str(tmp_path)},
        check=True,
        timeout=120,
    )

    assert list(tmp_path.rglob("*")) == []
