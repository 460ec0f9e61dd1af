"""Networks in files of other makers: ONNX, TorchScript and torch.export.

The runtime of ONNX is an extra, loaded where such a file is.
"""

import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import torch
from torch import Tensor

from moma_core.errors import (
    ConfigError,
    TeacherUnavailableError,
    first_line,
    quoted,
)
from moma_core.models.archives import check_unpacked
from moma_server.teacher.inference.arrays import Array, Runner, TensorShape

FileKind = Literal["onnx", "torchscript", "exported"]


class OnnxRunner:
    """An ONNX file in onnxruntime, on a GPU where it is wanted and has one.

    Args:
        path: The file; it holds all of its weights, since the digest counts it alone.
        device: Where it runs.

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
        _check_is_whole(path, onnx)
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
                f"onnxruntime cannot read {path}: {first_line(error)}"
            ) from None
        # a runtime that finds no CUDA libraries says a line and goes on without
        if providers[0] not in self._session.get_providers():
            raise ConfigError(
                "onnxruntime has CUDA and cannot start it: install the CUDA and cuDNN "
                "that its version needs, or set teacher.accelerator: cpu"
            )
        self._input = self._session.get_inputs()[0].name

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
        try:
            found = self._session.run(names, {self._input: values})
        except Exception as error:  # noqa: BLE001 - the runtime's own have no base
            raise TeacherUnavailableError(
                f"onnxruntime fails for {values.shape} {values.dtype}: "
                f"{first_line(error)}"
            ) from None
        return dict(zip(names, found, strict=True))


def _check_is_whole(path: Path, onnx: Any) -> None:  # noqa: ANN401 - a module
    """Refuses a file with weights beside it, which no digest would count."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # noqa: BLE001 - protobuf's own have no base
        raise ConfigError(f"onnx cannot read {path}: {first_line(error)}") from None
    for tensor in _tensors(model, onnx.TensorProto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ConfigError(
                f"{path} has its weights beside it, such as {quoted(tensor.name)}: "
                "save it as one file (torch.onnx.export with external_data=False, or "
                "onnx.save)"
            )


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
        network: Takes one tensor; on `device` already.
        device: Where it is.
    """

    def __init__(self, network: Callable[[Tensor], Any], device: torch.device) -> None:
        self._network = network
        self._device = device

    @property
    def inputs(self) -> tuple[TensorShape, ...]:
        """One tensor; the file says nothing of its shape."""
        return (TensorShape("0", "float", (None, None, None, None)),)

    @property
    def outputs(self) -> tuple[TensorShape, ...]:
        """Nothing: they are known when it has run."""
        return ()

    def run(self, values: Array, wanted: tuple[str, ...]) -> Mapping[str, Array]:
        """Returns all outputs by name or number; see `Runner`."""
        try:
            with torch.inference_mode():
                given = torch.from_numpy(values).to(self._device)
                found = _named(self._network(given))
                return {
                    name: each.float().cpu().numpy() for name, each in found.items()
                }
        except (AssertionError, AttributeError, RuntimeError, ValueError) as error:
            raise TeacherUnavailableError(
                f"the file's network fails for {values.shape} {values.dtype}: "
                f"{first_line(error)}"
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


def _torchscript(path: Path, device: torch.device) -> Callable[[Tensor], Any]:
    with warnings.catch_warnings():  # torch calls the format deprecated, and reads it
        warnings.simplefilter("ignore")
        module = torch.jit.load(  # type: ignore[no-untyped-call]
            str(path), map_location=device
        )
    network: Callable[[Tensor], Any] = module.eval()
    return network


def _exported(path: Path, device: torch.device) -> Callable[[Tensor], Any]:
    module = torch.export.load(path).module()
    network: Callable[[Tensor], Any] = module.to(device)
    return network


def open_file(kind: FileKind, path: Path, device: torch.device) -> Runner:
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
        return TorchFileRunner(read(), device)
    except (
        BadZipFile,
        KeyError,
        OSError,
        RuntimeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        raise ConfigError(
            f"{path} cannot be read as {kind}: {first_line(error)}"
        ) from None
