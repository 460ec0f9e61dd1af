"""Models whose maker means harm: what they would read, run or fill ends in a sentence.

A site and the maker of a model may be one: what a file beside the model holds would
come out as embeddings.
"""

import io
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from moma_core.errors import ConfigError, TeacherUnavailableError
from moma_core.models.backbone import Backbone
from moma_core.models.checkpoints import read_tensors
from moma_core.models.weights import load_weights
from moma_proto.oip import open_inference_pb2 as pb
from moma_server.cli.main import main
from moma_server.config.backend import FileBackend, InputSection, OutputsOfModelSection
from moma_server.config.import_recipe import ImportRecipe
from moma_server.teacher.build.from_model import teacher_from_model
from moma_server.teacher.build.inspection import ModelFindings
from moma_server.teacher.build.onnx_graph import save_with_outputs
from moma_server.teacher.build.signature import input_of
from moma_server.teacher.inference.arrays import TensorShape
from moma_server.teacher.inference.files import open_file
from moma_server.teacher.inference.open_inference import arrays_of
from tests.support.teacher.imported import NAMES, SIDE_PX

CPU = torch.device("cpu")
SECRET = b"the signing key of this teacher!"


class _Writes(torch.nn.Module):
    """Writes a file of its choice whenever it runs, as a TorchScript program can."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        torch.save(images, self.path)
        return images.mean(dim=(2, 3))


def program(path: Path, writes: Path) -> Path:
    with pytest.warns((FutureWarning, DeprecationWarning)):
        torch.jit.save(torch.jit.script(_Writes(str(writes))), str(path))
    return path


def imported(model: Path, out: Path, *more: str) -> int:
    line = ["teacher", "import", "--out", str(out), "--accelerator", "cpu", *more]
    return main([*line, str(model)])


@pytest.mark.parametrize("name", ["pytorch_model.bin", "checkpoint.pth", "w.ckpt"])
def test_a_program_that_is_named_like_weights_is_not_run(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = program(tmp_path / name, tmp_path / "written")

    assert imported(model, tmp_path / "made") == 1

    assert "is a program (torchscript) and named like weights" in caplog.text
    assert not (tmp_path / "written").exists()


def test_weights_that_are_a_program_as_well_are_not_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Safetensors are read from the front, an archive from its end."""
    model = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, model)
    archive = program(tmp_path / "model.pt", tmp_path / "written").read_bytes()
    model.write_bytes(model.read_bytes() + archive)

    assert imported(model, tmp_path / "made", "--architecture", "resnet18") == 1

    assert "named like weights" in caplog.text
    assert not (tmp_path / "written").exists()


def bomb(path: Path, *, like: bytes) -> None:
    """Writes an archive of a mebibyte that unpacks to a gibibyte.

    Args:
        path: Of the archive.
        like: An archive of torch, whose values it fills.
    """
    with (
        zipfile.ZipFile(io.BytesIO(like)) as whole,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in whole.infolist():
            if "/data/" in entry.filename:
                with packed.open(entry.filename, "w", force_zip64=True) as values:
                    for _ in range(1024):
                        values.write(bytes(1 << 20))
            else:
                packed.writestr(entry.filename, whole.read(entry))


@pytest.fixture(scope="module")
def inflating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns such an archive, which takes seconds to write."""
    saved = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, saved)
    path = tmp_path_factory.mktemp("bomb") / "bomb.pt"
    bomb(path, like=saved.getvalue())
    return path


READERS: dict[str, Callable[[Path], object]] = {
    "weights": read_tensors,
    "torchscript": lambda path: open_file("torchscript", path, CPU),
}


@pytest.mark.parametrize("kind", READERS)
def test_an_archive_that_inflates_is_refused_before_it_does(
    inflating: Path, kind: str
) -> None:
    assert inflating.stat().st_size < 4 << 20

    with pytest.raises(ConfigError, match="unpacks to 1073"):
        READERS[kind](inflating)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(1 << 20, 1 << 20),
        torch.zeros(2, 2).to_sparse(),
        torch.empty(1 << 20, 1 << 20, device="meta"),
    ],
)
def test_a_tensor_that_shows_values_it_does_not_hold_is_refused(
    tmp_path: Path, tensor: torch.Tensor
) -> None:
    torch.save({"pos_embed": tensor}, tmp_path / "w.pth")

    with pytest.raises(ConfigError, match="does not hold the values of 'pos_embed'"):
        read_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("length", [1 << 62, (1 << 64) - 1, 200_000_000])
def test_a_header_of_absurd_length_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"a": ')

    for read in (read_tensors, lambda p: load_weights(Backbone("resnet18", 0), p)):
        with pytest.raises(ConfigError, match="cannot read weights"):
            read(path)


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"architecture": "hf-hub:somebody/model"}, "is no name of timm's"),
    ({"architecture": "local-dir:/etc"}, "is no name of timm's"),
    ({"architecture": "../../model"}, "is no name of timm's"),
    ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "is not the config's"),
    ({"model_args": {"pretrained": True}}, "is not the config's"),
    ({"model_args": {"cache_dir": "elsewhere"}}, "is not the config's"),
    ({"model_args": {"act_layer": {"a": 1}}}, "cannot use .*model_args"),
    ({"mean": 5}, "cannot use .*mean"),
    ({"std": [0, 0, 0]}, "cannot use .*std.0"),
    ({"input_size": "x"}, "cannot use .*input_size"),
    ({"pretrained_cfg": {"input_size": [3, 10**9, 10**9]}}, "cannot use .*input_size"),
    ({"architecture": ["resnet18"]}, "cannot use .*architecture"),
]


@pytest.mark.parametrize(("config", "said"), CONFIGS)
def test_a_config_beside_weights_chooses_neither_place_nor_size(
    tmp_path: Path,
    config: dict[str, Any],
    said: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    whole = {"architecture": "resnet18", **config}
    (tmp_path / "config.json").write_text(json.dumps(whole))

    imported(tmp_path, tmp_path / "made")

    lines = (capsys.readouterr().out + caplog.text).splitlines()
    assert any(re.search(said, line) for line in lines), lines
    assert not any("Traceback" in line for line in lines)


def test_a_config_of_any_length_is_not_read(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(b"[" * (8 << 20))

    assert imported(tmp_path, tmp_path / "made") == 1


@pytest.mark.parametrize(
    "shape", [(None, 3, 10**6, 10**6), (10**9, 3, 32, 32), (None, 30_000, 30_000, 3)]
)
def test_a_model_that_takes_huge_patches_is_shown_none(shape: Any) -> None:
    class Says:
        inputs = (TensorShape("images", "float", shape),)
        outputs = ()

    runner: Any = Says()
    with pytest.raises(ConfigError, match="the model says that it takes"):
        input_of(runner, None)


def test_what_a_model_calls_itself_is_printed_as_one_plain_line() -> None:
    recipe = ImportRecipe.model_validate(
        {
            **NAMES,
            "model": "model.onnx",
            "backend": {"kind": "onnx", "outputs": {"embedding": "0"}},
        }
    )
    found = ModelFindings(recipe, {"outputs": "\x1b]0;owned\x07\n" + "x" * 10_000})

    (line,) = found.lines()

    assert line.isprintable()
    assert len(line) <= 2000


@pytest.mark.parametrize("shape", [(1,) * 65, (1,) * 9, (-1, -1), (0,), (2, 2)])
def test_an_array_of_a_shape_that_is_none_is_the_servers_fault(shape: Any) -> None:
    output = pb.ModelInferResponse.InferOutputTensor(
        name="features", datatype="FP32", shape=shape
    )
    response = pb.ModelInferResponse(outputs=[output], raw_output_contents=[bytes(4)])

    with pytest.raises(TeacherUnavailableError, match="says that its shape is"):
        arrays_of(response)


# ---- ONNX: a file that names another one, wherever in its graph


def external(name: str, location: str, length: int) -> Any:
    onnx = pytest.importorskip("onnx", reason="onnx is the extra onnx")
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.UINT8)
    tensor.dims.append(length)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _in_branches(constant: Any, length: int) -> Any:
    from onnx import TensorProto, helper

    out = helper.make_tensor_value_info("bytes", TensorProto.UINT8, [length])
    branches = {
        f"{name}_branch": helper.make_graph([constant], name, [], [out])
        for name in ("then", "else")
    }
    return helper.make_node("If", ["yes"], ["bytes"], **branches)


def _thief(place: str, stolen: Any) -> dict[str, list[Any]]:
    """Returns the parts of a model that make the tensor `bytes` of another file."""
    from onnx import TensorProto, helper

    if place == "initializer":
        stolen.name = "bytes"
        return {"initializer": [stolen]}
    constant = helper.make_node("Constant", [], ["bytes"], value=stolen)
    if place == "constant":
        return {"node": [constant]}
    if place == "branch":
        yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
        return {"initializer": [yes], "node": [_in_branches(constant, len(SECRET))]}
    opsets = [helper.make_opsetid("", 17)]
    steals = helper.make_function("own", "Steal", [], ["bytes"], [constant], opsets)
    call = helper.make_node("Steal", [], ["bytes"], domain="own")
    return {"functions": [steals], "node": [call]}


def reader(path: Path, location: str, *, place: str) -> Path:
    """A model that answers with the bytes of the file at `location`."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is the extra onnx")
    from onnx import TensorProto, helper

    parts = _thief(place, external("stolen", location, len(SECRET)))
    nodes = [
        *parts.get("node", []),
        helper.make_node("Cast", ["bytes"], ["row"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
        helper.make_node("ReduceMean", ["means"], ["one"], axes=[1], keepdims=1),
        helper.make_node("Add", ["one", "row"], ["features"]),
    ]
    size = ["batch", 3, SIDE_PX, SIDE_PX]
    graph = helper.make_graph(
        nodes,
        "reader",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, None)],
        parts.get("initializer", []),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = parts.get("functions", [])
    model = helper.make_model(graph, opset_imports=opsets, functions=functions)
    model.ir_version = 9
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("place", ["initializer", "constant", "branch", "function"])
@pytest.mark.parametrize("location", ["signing.key", "../signing.key", "/etc/passwd"])
def test_a_model_does_not_answer_with_a_file_beside_it(
    tmp_path: Path, place: str, location: str
) -> None:
    (tmp_path / "signing.key").write_bytes(SECRET)
    folder = tmp_path / "model" if location.startswith("..") else tmp_path
    folder.mkdir(exist_ok=True)
    model = reader(folder / "model.onnx", location, place=place)
    backend = FileBackend(
        kind="onnx",
        input=InputSection(values="unit"),
        outputs=OutputsOfModelSection(embedding="features"),
    )
    recipe = ImportRecipe.model_validate(
        {**NAMES, "model": str(model), "backend": backend.model_dump()}
    )

    with pytest.raises(ConfigError, match="has its weights beside it"):
        teacher_from_model(recipe, tmp_path / "made", CPU)

    made = [path for path in (tmp_path / "made").rglob("*") if path.is_file()]
    assert not any(SECRET in path.read_bytes() for path in made)


def test_a_copy_of_a_model_takes_nothing_in_from_beside_it(tmp_path: Path) -> None:
    (tmp_path / "signing.key").write_bytes(SECRET)
    model = reader(tmp_path / "model.onnx", "signing.key", place="constant")

    save_with_outputs(model, ("one",), tmp_path / "copy.onnx")

    assert SECRET not in (tmp_path / "copy.onnx").read_bytes()


def test_an_operator_of_a_domain_of_its_own_is_none(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is the extra onnx")
    import onnx
    from onnx import TensorProto, helper

    size = ["batch", 3, SIDE_PX, SIDE_PX]
    graph = helper.make_graph(
        [helper.make_node("Run", ["images"], ["features"], domain="evil.ops")],
        "own",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("evil.ops", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 9
    onnx.save(model, tmp_path / "model.onnx")

    with pytest.raises(ConfigError, match="onnxruntime cannot read"):
        open_file("onnx", tmp_path / "model.onnx", CPU)


def test_a_pickle_of_code_in_a_folder_of_the_hub_is_not_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "touched",)

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))

    assert imported(tmp_path, tmp_path / "made", "--architecture", "resnet18") == 1

    assert not (tmp_path / "touched").exists()
    assert "more than tensors" in caplog.text
