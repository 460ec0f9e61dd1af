"""Patches go to a model server as the type that it says its model takes."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from moma_core.errors import TeacherUnavailableError
from moma_proto.oip import open_inference_pb2 as pb
from moma_proto.oip import open_inference_pb2_grpc as rpc
from moma_server.config.backend import OipBackend
from moma_server.teacher.inference.open_inference import OpenInferenceRunner
from tests.support.machine.ports import LOOPBACK

_LONGEST_SECONDS = 60.0
_TYPES = {
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "UINT8": "u1",
    "INT32": "<i4",
    "INT64": "<i8",
}


class _Model(rpc.GRPCInferenceServiceServicer):
    """A model that gives back the pixels which it was given."""

    def __init__(self) -> None:
        self.takes = "FP32"
        self.asked = 0  # for its description
        self.goes = threading.Event()
        self.goes.set()

    def ModelMetadata(self, _request: Any, context: Any) -> pb.ModelMetadataResponse:
        self.asked += 1
        self.goes.wait(_LONGEST_SECONDS)
        if not self.takes:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        tensor = pb.ModelMetadataResponse.TensorMetadata
        images = tensor(name="images", datatype=self.takes, shape=[-1, 2])
        return pb.ModelMetadataResponse(name="model", inputs=[images])

    def ModelInfer(self, request: Any, context: Any) -> pb.ModelInferResponse:
        (given,) = request.inputs
        if given.datatype != (self.takes or "FP32"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no {given.datatype}")
        values = np.frombuffer(request.raw_input_contents[0], _TYPES[given.datatype])
        output = pb.ModelInferResponse.InferOutputTensor
        return pb.ModelInferResponse(
            outputs=[output(name="rows", datatype="FP32", shape=given.shape)],
            raw_output_contents=[values.astype(np.float32).tobytes()],
        )


@pytest.fixture
def model() -> Iterator[tuple[_Model, str]]:
    served = _Model()
    server = grpc.server(ThreadPoolExecutor(2))
    rpc.add_GRPCInferenceServiceServicer_to_server(served, server)
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    server.start()
    yield served, f"{LOOPBACK}:{port}"
    server.stop(None)


def _runner(address: str, name: str = "", **settings: float) -> OpenInferenceRunner:
    section = OipBackend(
        kind="oip",
        address=address,
        model="model",
        input={"name": name},
        outputs={"embedding": "rows"},
        **settings,
    )
    return OpenInferenceRunner(section)


def _asked(address: str, values: np.ndarray[Any, Any], name: str = "") -> Any:
    return _runner(address, name).run(values, ("rows",))["rows"]


@pytest.mark.parametrize(
    ("takes", "given"),
    [
        ("FP16", np.float32),
        ("FP32", np.float32),
        ("FP64", np.float32),
        ("FP32", np.uint8),  # a model that divides by 255 itself
        ("UINT8", np.uint8),
        ("INT32", np.uint8),
        ("INT64", np.uint8),
    ],
)
@pytest.mark.parametrize("name", ["", "images"])
def test_a_model_gets_the_type_that_it_takes(
    model: tuple[_Model, str], takes: str, given: type[np.generic], name: str
) -> None:
    served, address = model
    served.takes = takes
    values = np.arange(6).reshape(3, 2).astype(given)

    np.testing.assert_array_equal(_asked(address, values, name), values)


def test_an_input_that_the_server_does_not_list_gets_the_usual_type(
    model: tuple[_Model, str],
) -> None:
    _, address = model
    values = np.ones((1, 2), np.float32)

    np.testing.assert_array_equal(_asked(address, values, "another"), values)


@pytest.mark.parametrize("takes", ["INT32", "UINT8", "BF16"])
def test_parts_of_one_are_sent_as_no_whole_numbers(
    model: tuple[_Model, str], takes: str
) -> None:
    served, address = model
    served.takes = takes

    with pytest.raises(TeacherUnavailableError, match="INVALID_ARGUMENT"):
        _asked(address, np.full((1, 2), 0.5, np.float32))


def test_a_server_that_describes_no_model_is_asked_for_it_once(
    model: tuple[_Model, str],
) -> None:
    served, address = model
    served.takes = ""
    values = np.ones((1, 2), np.float32)
    runner = _runner(address, "images")

    for _ in range(3):
        np.testing.assert_array_equal(runner.run(values, ("rows",))["rows"], values)
    assert served.asked == 1


def test_a_server_that_is_slow_to_describe_its_model_ends_the_pass_in_time(
    model: tuple[_Model, str],
) -> None:
    served, address = model
    served.goes.clear()
    runner = _runner(address, "images", timeout_seconds=0.2)

    try:
        with pytest.raises(TeacherUnavailableError, match=r"within 0\.2 s"):
            runner.run(np.ones((1, 2), np.float32), ("rows",))
    finally:
        served.goes.set()
