"""Networks in files of other makers: ONNX, TorchScript and torch.export.

The runtime of ONNX is an extra, loaded where such a file is.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from moma_core.errors import (
    ConfigError,
    TeacherUnavailableError,
    first_line,
    printable_line,
    quoted,
)
from moma_core.models.archives import check_unpacked
from moma_server.teacher.inference.arrays import Array, TensorShape

FileKind = Literal["onnx", "torchscript", "exported"]

_ONNX_TYPES = {
    "float": np.float32,
    "float16": np.float16,
    "double": np.float64,
    "uint8": np.uint8,
    "int32": np.int32,
    "int64": np.int64,
}
_NUMBERS = "fiu"  # kinds of numpy's types; outputs are strings, lists or maps as well


class OnnxRunner:
    """An ONNX file in onnxruntime, on a GPU where it is wanted and has one.

    Args:
        path: The file; it holds all of its weights, since the digest counts it alone.
        device: Where it runs.

    Attributes:
        parameters: How many values the file holds.

    Raises:
        ConfigError: The runtime is missing, has no such device, or cannot read it.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        try:
            import onnx
            import onnxruntime
        except ImportError:
            raise ConfigError(
                "an ONNX teacher needs onnxruntime: pip install 'moma-service[onnx]', "
                "or onnxruntime-gpu for a GPU"
            ) from None
        self.parameters = _values_in(path, onnx)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised; it would print them as well
        options.intra_op_num_threads = torch.get_num_threads()
        providers = _providers(device, onnxruntime.get_available_providers())
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=providers
            )
        except Exception as error:  # noqa: BLE001 - the runtime's own have no base
            raise ConfigError(
                f"onnxruntime cannot read {path}: {_reason(error)}"
            ) from None
        # a runtime that finds no CUDA libraries says a line and goes on without
        if providers[0] not in self._session.get_providers():
            raise ConfigError(
                "onnxruntime has CUDA and cannot start it: install the CUDA and cuDNN "
                "that its version needs, or set teacher.accelerator: cpu"
            )

    @property
    def inputs(self) -> tuple[TensorShape, ...]:
        """What the file says that it takes."""
        return tuple(map(_onnx_tensor, self._session.get_inputs()))

    @property
    def outputs(self) -> tuple[TensorShape, ...]:
        """What the file says that it gives."""
        return tuple(map(_onnx_tensor, self._session.get_outputs()))

    def run(self, values: Array, wanted: tuple[str, ...]) -> Mapping[str, Array]:
        """Returns the outputs of those names that the file has; see `Runner`."""
        names = [each.name for each in self.outputs if each.name in wanted]
        if len(names) < len(set(wanted)):
            return {
                each.name: values[:0] for each in self.outputs if each.name in names
            }
        taken = self.inputs[0]
        dtype = _ONNX_TYPES.get(taken.dtype, values.dtype)
        if np.can_cast(values.dtype, dtype, "same_kind"):
            values = values.astype(dtype, copy=False)
        try:
            found = self._session.run(names, {taken.name: values})
        except Exception as error:  # noqa: BLE001 - the runtime's own have no base
            raise TeacherUnavailableError(
                f"onnxruntime fails for {values.shape} {values.dtype}: {_reason(error)}"
            ) from None
        return {
            name: each
            for name, each in zip(names, found, strict=True)
            if isinstance(each, np.ndarray) and each.dtype.kind in _NUMBERS
        }


def _values_in(path: Path, onnx: Any) -> int:  # noqa: ANN401 - a module
    """Counts what a file holds; one with weights beside it no digest would count."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # noqa: BLE001 - protobuf's own have no base
        raise ConfigError(f"onnx cannot read {path}: {_reason(error)}") from None
    count, most = 0, 8 * path.stat().st_size  # a bit each
    for tensor in _tensors(model, onnx.TensorProto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ConfigError(
                f"{path} has its weights beside it, such as {quoted(tensor.name)}: "
                "save it as one file (torch.onnx.export with external_data=False, or "
                "onnx.save)"
            )
        count += _length(tensor, most)
    return count


def _length(tensor: Any, most: int) -> int:  # noqa: ANN401 - of onnx
    """Counts the values of a tensor, which cannot be more than `most`."""
    count = 1
    for length in tensor.dims:
        count *= length
        if not 0 <= count <= most:
            raise ConfigError(
                f"the file cannot hold as many values as its {quoted(tensor.name)} has"
            )
    return count


def _tensors(message: Any, kind: type[Any]) -> Iterator[Any]:  # noqa: ANN401 - of onnx
    """Yields the tensors of a file, wherever they stand.

    Weights are initializers, but a constant's value, a branch or a function has tensors
    of its own, and each may name a file: `../signing.key` would be read with the rest.
    """
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for each in [value] if hasattr(value, "ListFields") else value:
            if isinstance(each, kind):
                yield each
            elif hasattr(each, "ListFields"):
                yield from _tensors(each, kind)


def _providers(device: torch.device, available: Sequence[str]) -> list[str]:
    if device.type != "cuda":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in available:
        raise ConfigError(
            "this onnxruntime has no CUDA: pip install onnxruntime-gpu, or set "
            "teacher.accelerator: cpu"
        )
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def _onnx_tensor(found: Any) -> TensorShape:  # noqa: ANN401 - onnxruntime's own type
    shape = (length if isinstance(length, int) else None for length in found.shape)
    return TensorShape(
        found.name, found.type.removeprefix("tensor(")[:-1], tuple(shape)
    )


class TorchFileRunner:
    """A TorchScript file, or one of torch.export; outputs go by name or number.

    Args:
        module: Takes one tensor; on `device` already.
        inputs: What the file says that it takes.
        dtype: Of the values that it computes with.
        device: Where it is.

    Attributes:
        inputs: What the file says that it takes.
        parameters: How many parameters it has; 0 where they became constants.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: tuple[TensorShape, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._module = module
        self._dtype = dtype
        self._device = device
        self.inputs = inputs
        self.parameters = sum(each.numel() for each in module.parameters())

    @property
    def outputs(self) -> tuple[TensorShape, ...]:
        """Nothing: they are known when it has run."""
        return ()

    def run(self, values: Array, wanted: tuple[str, ...]) -> Mapping[str, Array]:
        """Returns all outputs by name or number; see `Runner`."""
        try:
            with torch.inference_mode():
                given = torch.from_numpy(values).to(self._device)
                if given.is_floating_point() == self._dtype.is_floating_point:
                    given = given.to(self._dtype)
                found = _named(self._module(given))
                return {
                    name: each.float().cpu().numpy() for name, each in found.items()
                }
        except (AssertionError, AttributeError, RuntimeError, ValueError) as error:
            raise TeacherUnavailableError(
                f"the file's network fails for {values.shape} {values.dtype}: "
                f"{_reason(error)}"
            ) from None


def _named(found: object) -> dict[str, Tensor]:
    if isinstance(found, Tensor):
        return {"0": found}
    if isinstance(found, Mapping):
        pairs = [(str(name), value) for name, value in found.items()]
    elif isinstance(found, tuple | list):
        pairs = [(str(place), value) for place, value in enumerate(found)]
    else:
        pairs = []
    return {name: value for name, value in pairs if isinstance(value, Tensor)}


def _torchscript(path: Path, device: torch.device) -> TorchFileRunner:
    with warnings.catch_warnings():  # torch calls the format deprecated, and reads it
        warnings.simplefilter("ignore")
        module = torch.jit.load(  # type: ignore[no-untyped-call]
            str(path), map_location=device
        )
    floats = (p.dtype for p in module.parameters() if p.is_floating_point())
    dtype = next(floats, torch.float32)
    unknown = TensorShape("0", "float", (None, None, None, None))
    return TorchFileRunner(module.eval(), (unknown,), dtype, device)


def _exported(path: Path, device: torch.device) -> TorchFileRunner:
    program = torch.export.load(path)
    names = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    taken = [node.meta["val"] for node in nodes if node.name in names]
    inputs = tuple(starmap(_exported_tensor, enumerate(taken)))
    dtype = getattr(taken[0], "dtype", torch.float32)
    return TorchFileRunner(program.module().to(device), inputs, dtype, device)


def _exported_tensor(place: int, value: object) -> TensorShape:
    if not isinstance(value, Tensor):
        return TensorShape(str(place), type(value).__name__, ())
    lengths: Sequence[object] = value.shape  # a symbol stands for any
    shape = tuple(each if isinstance(each, int) else None for each in lengths)
    dtype = str(value.dtype).removeprefix("torch.")
    is_float = value.is_floating_point()  # patches are cast to any
    return TensorShape(str(place), "float" if is_float else dtype, shape)


FileRunner = OnnxRunner | TorchFileRunner


def open_file(kind: FileKind, path: Path, device: torch.device) -> FileRunner:
    """Returns what runs a file.

    Raises:
        ConfigError: It is missing, damaged, or of another kind.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    if kind == "onnx":
        return OnnxRunner(path, device)
    check_unpacked(path)
    read = partial(_torchscript if kind == "torchscript" else _exported, path, device)
    try:
        return read()
    except Exception as error:  # noqa: BLE001 - the border: torch raises anything
        raise ConfigError(
            f"{path} cannot be read as {kind}: {_reason(error)}"
        ) from None


def _reason(error: Exception) -> str:
    """Returns what an error says; TorchScript shows its own source before it."""
    said = first_line(error)
    if "TorchScript interpreter" not in said:
        return said
    return printable_line(str(error).strip().splitlines()[-1])
