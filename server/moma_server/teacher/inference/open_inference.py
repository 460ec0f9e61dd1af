"""A model behind a server of the Open Inference Protocol v2, asked over gRPC.

Triton, KServe, OpenVINO Model Server and MLServer speak it. Patches leave this process
for that server and for nobody else; what it answers is believed as far as the
reference patch shows.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_address
from typing import Any

import grpc
import numpy as np

from moma_core.errors import (
    ConfigError,
    MismatchError,
    TeacherUnavailableError,
    printable_line,
)
from moma_core.network.address import endpoint_of
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.query import Pixels
from moma_proto.oip import open_inference_pb2 as pb
from moma_proto.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from moma_server.config.backend import OipBackend
from moma_server.teacher.inference.arrays import (
    Array,
    ArrayBackend,
    TensorShape,
    TooManyPatchesError,
)
from moma_server.teacher.inference.backend import ModelOutput

_logger = logging.getLogger(__name__)

# a message above the server's limit (KServe's is 8 MiB), a batch above the model's
_TOO_MANY = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)
# not every server describes its models
_NOT_DESCRIBED = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND)
_FLOATS: Mapping[str, type[np.generic]] = {
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
_NUMBERS: Mapping[str, type[np.generic]] = {
    **_FLOATS,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
}
_LARGEST_MESSAGE_BYTES = 2**30
_METADATA_SECONDS = 30.0
_LONGEST_DETAILS = 300
_MOST_AXES = 8  # numpy takes no more than 64


class OpenInferenceRunner:
    """Asks one model of a model server.

    Args:
        section: Address, model, version and time limit.

    Raises:
        ConfigError: The CA's file cannot be read.
    """

    def __init__(self, section: OipBackend) -> None:
        self._section = section
        self._stub = GRPCInferenceServiceStub(_channel(section))
        self._described: pb.ModelMetadataResponse | None = None

    @property
    def inputs(self) -> tuple[TensorShape, ...]:
        """What the server says that the model takes; raises as `check_ready`."""
        return tuple(map(_tensor, self._metadata().inputs))

    @property
    def outputs(self) -> tuple[TensorShape, ...]:
        """What the server says that the model gives; raises as `check_ready`."""
        return tuple(map(_tensor, self._metadata().outputs))

    @property
    def platform(self) -> str:
        """What runs the model, in the server's words; raises as `check_ready`."""
        return self._metadata().platform

    def check_ready(self) -> None:
        """Makes sure that the model can be asked.

        Raises:
            ConfigError: The server is not there, or has no such model.
        """
        section = self._section
        which = {"name": section.model, "version": section.version}
        try:
            response = self._stub.ModelReady(
                pb.ModelReadyRequest(**which), timeout=_METADATA_SECONDS
            )
        except grpc.RpcError as error:
            raise self._fault(error) from None
        if not response.ready:
            raise ConfigError(
                f"the model server {section.address} says that {section.model!r} is "
                "not ready"
            )

    def run(self, values: Array, wanted: tuple[str, ...]) -> Mapping[str, Array]:
        """Returns the outputs that the server gives; see `Runner`."""
        limit = self._section.timeout_seconds
        try:
            request = self._request(values, wanted)
            response = self._stub.ModelInfer(request, timeout=limit)
        except grpc.RpcError as error:
            code, details = _status(error)
            _logger.error("the model server fails: %s: %s", code, details)
            reason = f"failed ({code})"
            if code == grpc.StatusCode.DEADLINE_EXCEEDED.name:
                reason = f"did not answer within {limit:g} s"
            kind = TeacherUnavailableError
            if error.code() in _TOO_MANY:
                kind = TooManyPatchesError
            raise kind(f"the model server behind the teacher {reason}") from None
        return arrays_of(response)

    def _request(self, values: Array, wanted: tuple[str, ...]) -> pb.ModelInferRequest:
        section = self._section
        inputs = self._inputs_in_time()
        name = section.input.name or self._only_one(inputs)
        usual, fit = "FP32", _FLOATS
        if values.dtype == np.uint8:
            usual, fit = "UINT8", _NUMBERS
        datatype = inputs[name] if inputs.get(name) in fit else usual
        dtype = np.dtype(_NUMBERS[datatype]).newbyteorder("<")
        given = pb.ModelInferRequest.InferInputTensor(
            name=name, datatype=datatype, shape=values.shape
        )
        output = pb.ModelInferRequest.InferRequestedOutputTensor
        return pb.ModelInferRequest(
            model_name=section.model,
            model_version=section.version,
            inputs=[given],
            outputs=[output(name=each) for each in wanted],
            raw_input_contents=[values.astype(dtype, copy=False).tobytes()],
        )

    def _inputs_in_time(self) -> dict[str, str]:
        """Returns the type of each input that is listed, within the time of a pass."""
        try:
            found = self._description(self._section.timeout_seconds)
        except grpc.RpcError as error:
            if error.code() not in _NOT_DESCRIBED:
                raise
            found = self._described = pb.ModelMetadataResponse()
        return {each.name: each.datatype for each in found.inputs}

    def _only_one(self, inputs: Collection[str]) -> str:
        if len(inputs) != 1:
            raise ConfigError(
                f"the model server lists {len(inputs)} inputs of "
                f"{self._section.model!r}: name backend.input.name"
            )
        return next(iter(inputs))

    def _metadata(self) -> pb.ModelMetadataResponse:
        try:
            return self._description(_METADATA_SECONDS)
        except grpc.RpcError as error:
            raise self._fault(error) from None

    def _description(self, limit_seconds: float) -> pb.ModelMetadataResponse:
        if self._described is None:
            which = {"name": self._section.model, "version": self._section.version}
            self._described = self._stub.ModelMetadata(
                pb.ModelMetadataRequest(**which), timeout=limit_seconds
            )
        return self._described

    def _fault(self, error: grpc.RpcError) -> ConfigError:
        section = self._section
        return ConfigError(
            f"the model server {section.address} does not show {section.model!r}: "
            f"{': '.join(_status(error))}"
        )


def _channel(section: OipBackend) -> grpc.Channel:
    options = [
        ("grpc.enable_http_proxy", 0),  # it is in a network of the teacher's own
        ("grpc.max_send_message_length", _LARGEST_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _LARGEST_MESSAGE_BYTES),
    ]
    if section.ca_file is None:
        if not _is_loopback(section.address):
            _logger.warning(
                "patches go to the model server %s without TLS: anybody between reads "
                "them; backend.ca_file encrypts",
                section.address,
            )
        return grpc.insecure_channel(section.address, options)
    try:
        authority = section.ca_file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read backend.ca_file: {error}") from None
    credentials = grpc.ssl_channel_credentials(authority)
    return grpc.secure_channel(section.address, credentials, options)


def _is_loopback(address: str) -> bool:
    host, _ = endpoint_of(address)
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _status(error: Any) -> tuple[str, str]:  # noqa: ANN401 - an error and a call
    """Returns the code and the first line of what the server says."""
    lines = (error.details() or "").splitlines() or [""]
    return error.code().name, printable_line(lines[0], _LONGEST_DETAILS)


def _tensor(found: pb.ModelMetadataResponse.TensorMetadata) -> TensorShape:
    shape = (length if length > 0 else None for length in found.shape)
    return TensorShape(found.name, found.datatype, tuple(shape))


def arrays_of(response: pb.ModelInferResponse) -> dict[str, Array]:
    """Returns the outputs of a response, by name.

    Raises:
        TeacherUnavailableError: An output is of another type, or not of its shape.
    """
    raw = list(response.raw_output_contents)
    found = {}
    for place, output in enumerate(response.outputs):
        if output.datatype not in _FLOATS:
            raise TeacherUnavailableError(
                f"the model server gives {output.name[:80]!r} as "
                f"{output.datatype[:20]!r}; "
                f"{', '.join(_FLOATS)} are read"
            )
        dtype = np.dtype(_FLOATS[output.datatype]).newbyteorder("<")
        if raw:
            content = raw[place] if place < len(raw) else b""
            values = np.frombuffer(
                content[: len(content) // dtype.itemsize * dtype.itemsize], dtype
            )
        elif output.datatype == "FP64":
            values = np.asarray(output.contents.fp64_contents, dtype)
        else:
            values = np.asarray(output.contents.fp32_contents, np.float32)
        # beside a 0 any length fits the count, and numpy takes not every one
        is_shape = len(output.shape) <= _MOST_AXES and min(output.shape, default=1) > 0
        if not is_shape or values.size != math.prod(output.shape):
            raise TeacherUnavailableError(
                f"the model server gives {values.size} values of "
                f"{output.name[:80]!r} and says that its shape is "
                f"{tuple(output.shape[:8])}"
            )
        found[output.name] = values.reshape(tuple(output.shape))
    return found


class OpenInferenceBackend(ArrayBackend):
    """A teacher behind a model server; now and then it must answer its reference patch.

    The owner of the server may put another model in the place of this one, which only
    its answers show.

    Args:
        section: Where the model is, and what it takes and gives.
        card: Must have a reference patch.
        runner: Asks the server.
        clock: Gives seconds, and never goes back.
    """

    def __init__(
        self,
        section: OipBackend,
        card: TeacherCard,
        runner: OpenInferenceRunner,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(section, card, runner)
        self._every_seconds = section.recheck_seconds
        self._clock = clock
        self._checked_at = -math.inf

    def predict(self, pixels: Pixels) -> ModelOutput:
        """Returns embedding (N, D) and logits (N, C); raises as `ArrayBackend`."""
        now = self._clock()
        if now - self._checked_at >= self._every_seconds:
            self._check()
            self._checked_at = now
        try:
            return super().predict(pixels)
        except TeacherUnavailableError:
            self._checked_at = -math.inf  # whoever comes back may be another
            raise

    def _check(self) -> None:
        golden = self.card.golden
        if golden is None:
            return
        patch = golden.pixels(self.card.input_size_px)[np.newaxis]
        embedding, logits = super().predict(patch)
        try:
            golden.check(embedding[0], logits[0])
        except MismatchError as error:
            _logger.error("%s", error)
            raise TeacherUnavailableError(
                "the model server behind the teacher does not answer its reference "
                "patch as its card says: another model may be loaded there"
            ) from None
