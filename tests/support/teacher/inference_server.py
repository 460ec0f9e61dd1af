"""A real server of the Open Inference Protocol on loopback: MLServer, in a venv."""

import json
import subprocess
import time
from pathlib import Path
from typing import Literal

import grpc
import numpy as np
from numpy.typing import NDArray

from moma_core.teacher.query import Pixels
from moma_proto.oip import open_inference_pb2 as pb
from moma_proto.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support.machine.needs import needs_made
from tests.support.machine.ports import LOOPBACK, free_port
from tests.support.teacher.imported import MEAN, SIDE_PX, STD

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0

MODEL = "colour"
DEPTH = 6  # mean colours of the upper and the lower half

Mood = Literal["normal", "other", "shape", "slow", "broken"]

# Runs in the other venv, which has numpy and no torch.
_RUNTIME = """
import asyncio
from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

FOLDER = Path(__file__).parent


class Colour(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        mood = (FOLDER / "mood").read_text()
        images = NumpyCodec.decode_input(payload.inputs[0])
        if mood == "slow":
            await asyncio.sleep(3600)
        if mood == "broken":
            raise ValueError("no room for the patches of the secret site")
        half = images.shape[2] // 2
        upper = images[:, :, :half].mean(axis=(2, 3))
        lower = images[:, :, half:].mean(axis=(2, 3))
        features = np.concatenate([upper, lower], axis=1).astype(np.float32)
        scores = features[:, :2] - features[:, 4:]
        if mood == "other":
            features = features + 1
        if mood == "shape":
            features = features[:-1] if len(features) > 1 else features[:, :4]
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output("features", features),
                NumpyCodec.encode_output("scores", scores),
            ],
        )
"""


def expected(pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the model gives, computed here: the source model's own answers."""
    images = (pixels.astype(np.float64) / 255 - MEAN) / STD
    upper = images[:, : SIDE_PX // 2].mean(axis=(1, 2))
    lower = images[:, SIDE_PX // 2 :].mean(axis=(1, 2))
    features = np.concatenate([upper, lower], axis=1).astype(np.float32)
    return features, features[:, :2] - features[:, 4:]


class InferenceServer:
    """MLServer with one model; a `with` block starts and ends it.

    Args:
        folder: For its files.
    """

    def __init__(self, folder: Path) -> None:
        self._program = needs_made("oip/bin/mlserver", "make oip-server")
        folder.mkdir()
        self._folder = folder
        self.port = free_port()
        (folder / "runtime.py").write_text(_RUNTIME)
        self.behave("normal")
        shape = [-1, 3, SIDE_PX, SIDE_PX]
        self._write(
            "model-settings.json",
            {
                "name": MODEL,
                "implementation": "runtime.Colour",
                "inputs": [{"name": "images", "datatype": "FP32", "shape": shape}],
                "outputs": [
                    {"name": "features", "datatype": "FP32", "shape": [-1, DEPTH]},
                    {"name": "scores", "datatype": "FP32", "shape": [-1, 2]},
                ],
            },
        )
        self._write(
            "settings.json",
            {
                "host": LOOPBACK,
                "grpc_port": self.port,
                "http_port": free_port(),
                "metrics_port": free_port(),
                "parallel_workers": 0,
            },
        )

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def behave(self, mood: Mood) -> None:
        """From the next pass on."""
        (self._folder / "mood").write_text(mood)

    def __enter__(self) -> "InferenceServer":
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, "start", "."],
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, name: str, values: object) -> None:
        (self._folder / name).write_text(json.dumps(values))

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        with grpc.insecure_channel(self.address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            while self._process.poll() is None and time.monotonic() < deadline:
                try:
                    if stub.ModelReady(pb.ModelReadyRequest(name=MODEL)).ready:
                        return
                except grpc.RpcError:
                    time.sleep(0.1)
        log = (self._folder / "log").read_text()
        self.__exit__()
        raise AssertionError(f"MLServer did not start: {log}")
