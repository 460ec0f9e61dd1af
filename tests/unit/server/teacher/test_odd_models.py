"""Models that are written otherwise than most: what they take is found, or told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moma_core.errors import ConfigError
from moma_server.config.import_recipe import ImportRecipe
from moma_server.teacher.build.from_model import teacher_from_model
from tests.support.teacher.imported import (
    NAMES,
    SIDE_PX,
    classifier,
    look,
    normalised,
    patches,
    served,
)

CPU = torch.device("cpu")
EXAMPLE = torch.zeros(1, 3, SIDE_PX, SIDE_PX)
SIDE = ("--input-size-px", str(SIDE_PX))


def _made(out: Path) -> ImportRecipe:
    """Makes the teacher of the recipe that was written, with our mean and std."""
    recipe = ImportRecipe.from_yaml(out / "import.yaml")
    values = {key: tuple(NAMES[key]) for key in ("mean", "std")}
    recipe = recipe.model_copy(update=values)
    teacher_from_model(recipe, out, CPU)
    return recipe


# ---- ONNX


def _onnx(
    path: Path,
    *,
    shape: tuple[object, ...] = ("n", 3, SIDE_PX, SIDE_PX),
    taken: str = "FLOAT",
    inside: str = "FLOAT",
    classes: int = 5,
    last: str = "",
) -> Path:
    """Writes a classifier of random weights: a convolution, a mean, a linear layer.

    Args:
        path: Of the file.
        shape: Of its input.
        taken: Type of its input.
        inside: Type that it computes with.
        classes: Number of its outputs.
        last: What comes after the linear layer; empty: nothing.
    """
    onnx = pytest.importorskip("onnx", reason="onnx is the extra onnx")
    pytest.importorskip("onnxruntime", reason="onnxruntime is the extra onnx")
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node(*words, to=TensorProto.DataType.Value(inside))
        if words[0] == "Cast"
        else helper.make_node(*words)
        for words in (*_NODES, (last or "Identity", ["sums"], ["scores"]))
    ]
    given = TensorProto.DataType.Value(taken)
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("images", given, shape)],
        [helper.make_empty_tensor_value_info("scores")],
        _weights(classes, TYPES[inside]),
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


_NODES = (
    ("Cast", ["images"], ["cast"]),
    ("Conv", ["cast", "kernel"], ["maps"]),
    ("GlobalAveragePool", ["maps"], ["pooled"]),
    ("Flatten", ["pooled"], ["features"]),
    ("MatMul", ["features", "linear"], ["product"]),
    ("Add", ["product", "bias"], ["sums"]),
)
TYPES: dict[str, type[np.floating[Any]]] = {
    "FLOAT": np.float32,
    "FLOAT16": np.float16,
    "DOUBLE": np.float64,
}


def _weights(classes: int, dtype: type[np.floating[Any]]) -> list[Any]:
    from onnx import numpy_helper

    random = np.random.default_rng(3)
    weights = {
        "kernel": random.normal(size=(8, 3, 3, 3)),
        "linear": random.normal(size=(8, classes)),
        "bias": random.normal(size=classes),
    }
    return [
        numpy_helper.from_array(values.astype(dtype), name)
        for name, values in weights.items()
    ]


def _own_answer(path: Path, values: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"images": values})
    found: np.ndarray = scores
    return found


@pytest.mark.parametrize(
    ("taken", "inside"),
    [("FLOAT16", "FLOAT16"), ("FLOAT", "FLOAT16"), ("DOUBLE", "FLOAT")],
)
def test_an_onnx_file_gets_patches_in_the_type_that_it_takes(
    tmp_path: Path, taken: str, inside: str
) -> None:
    path = _onnx(tmp_path / "model.onnx", taken=taken, inside=inside)

    assert look(path, tmp_path / "made") == 0
    recipe: Any = _made(tmp_path / "made")
    embedding, logits = served(tmp_path, tmp_path / "made").predict(patches())

    values = normalised(patches()).numpy().astype(TYPES[taken])
    expected = _own_answer(path, values)
    close = 1e-4 if inside == "FLOAT" else 1e-2  # of the runtime's own rounding
    np.testing.assert_allclose(logits, expected, rtol=close, atol=close)
    assert recipe.backend.outputs.embedding == "features"
    assert embedding.shape == (3, 8)


def test_an_onnx_file_of_whole_numbers_gets_bytes(tmp_path: Path) -> None:
    path = _onnx(tmp_path / "model.onnx", taken="INT32")

    assert look(path, tmp_path / "made") == 0
    recipe: Any = _made(tmp_path / "made")
    _, logits = served(tmp_path, tmp_path / "made").predict(patches())

    pixels = patches().transpose(0, 3, 1, 2).astype(np.int32)
    expected = _own_answer(path, pixels)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert recipe.backend.input.values == "bytes"


def test_a_tensor_of_more_values_than_the_file_holds_is_one_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A number of thousands of digits was made of it, which no program prints."""
    path = _onnx(tmp_path / "model.onnx")
    import onnx

    model = onnx.load(path)
    unused = model.graph.initializer.add(name="huge", data_type=1)
    unused.dims.extend([2**62] * 300)
    onnx.save(model, path)

    assert look(path, tmp_path / "made") == 1

    assert "cannot hold as many values as its 'huge' has" in caplog.text


def test_a_name_of_an_input_is_quoted_and_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _onnx(tmp_path / "model.onnx", shape=("n", 1, SIDE_PX, SIDE_PX))
    import onnx

    model = onnx.load(path)
    name = "\x1b[31m\n" + 10_000 * "x"
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    onnx.save(model, path)

    assert look(path, tmp_path / "made") == 1

    (record,) = caplog.records
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 1000


def test_outputs_that_are_no_arrays_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As converters write them: a label, and a list of what belongs to it."""
    path = _onnx(tmp_path / "model.onnx")
    import onnx

    model = onnx.load(path)
    listed = onnx.helper.make_node("SequenceConstruct", ["scores"], ["listed"])
    model.graph.node.append(listed)
    kind = onnx.TensorProto.FLOAT
    shown = onnx.helper.make_tensor_sequence_value_info("listed", kind, None)
    model.graph.output.insert(0, shown)
    onnx.save(model, path)

    assert look(path, tmp_path / "made") == 0

    assert "outputs      'scores (2, 5)'\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"shape": ("n", 1, SIDE_PX, SIDE_PX)}, "square patches of three channels"),
        ({"shape": ("n", 3, SIDE_PX, 48)}, "square patches of three channels"),
        ({"taken": "INT8"}, "takes 'images' as 'int8', and patches are given as float"),
    ],
)
def test_an_input_that_is_no_patch_is_one_sentence(
    tmp_path: Path, written: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = _onnx(tmp_path / "model.onnx", **written)

    assert look(path, tmp_path / "made") == 1

    assert said in caplog.text
    assert "input-size-px" not in caplog.text


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"last": "Sigmoid"}, "'scores' lie between 0 and 1 and do not add up to 1"),
        ({"classes": 1}, "'scores' has one value a patch, and logits are one a class"),
    ],
)
def test_outputs_that_are_no_logits_are_told(
    tmp_path: Path, written: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _onnx(tmp_path / "model.onnx", **written)

    assert look(path, tmp_path / "made") == 0

    assert said in capsys.readouterr().out


def test_logits_may_be_any_tensor_of_the_graph(tmp_path: Path) -> None:
    path = _onnx(tmp_path / "model.onnx", last="Sigmoid")
    without = _onnx(tmp_path / "without.onnx")
    assert look(path, tmp_path / "made") == 0
    recipe: Any = ImportRecipe.from_yaml(tmp_path / "made" / "import.yaml")
    outputs = recipe.backend.outputs.model_copy(update={"logits": "sums"})
    backend = recipe.backend.model_copy(update={"outputs": outputs})
    values = {key: tuple(NAMES[key]) for key in ("mean", "std")}

    recipe = recipe.model_copy(update={"backend": backend, **values})
    teacher_from_model(recipe, tmp_path / "made", CPU)
    _, logits = served(tmp_path, tmp_path / "made").predict(patches())

    expected = _own_answer(without, normalised(patches()).numpy())
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert outputs.embedding == "features"


def test_classes_and_logits_of_other_numbers_are_one_sentence(tmp_path: Path) -> None:
    path = _onnx(tmp_path / "model.onnx")
    assert look(path, tmp_path / "made") == 0
    recipe = ImportRecipe.from_yaml(tmp_path / "made" / "import.yaml")

    recipe = recipe.model_copy(update={"class_names": ("benign", "malignant")})
    with pytest.raises(ConfigError, match="5 logits a patch, class_names has 2"):
        teacher_from_model(recipe, tmp_path / "made", CPU)


def test_the_parameters_of_a_file_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _onnx(tmp_path / "model.onnx")

    assert look(path, tmp_path / "made", "--classes", "a, b,c , d,e") == 0

    assert f"parameters   {8 * 27 + 8 * 5 + 5}\n" in capsys.readouterr().out
    recipe = ImportRecipe.from_yaml(tmp_path / "made" / "import.yaml")
    assert recipe.class_names == ("a", "b", "c", "d", "e")


# ---- TorchScript and torch.export


class _ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = classifier()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embedding, logits = self.inner(images.permute(0, 3, 1, 2))
        return embedding, logits


def _traced(model: nn.Module, example: Tensor, path: Path) -> Path:
    with pytest.warns((FutureWarning, DeprecationWarning)):
        torch.jit.save(torch.jit.trace(model, example), str(path))
    return path


def _exported(model: nn.Module, example: Tensor, path: Path) -> Path:
    torch.export.save(torch.export.export(model, (example,)), path)
    return path


def _one_at_a_time(path: Path) -> Path:
    return _exported(classifier(), EXAMPLE, path)


WRITERS: dict[str, tuple[Callable[[Path], Path], dict[str, object]]] = {
    "one.pt2": (_one_at_a_time, {"batch_patches": 1}),
    "last.pt": (
        lambda path: _traced(_ChannelsLast(), EXAMPLE.permute(0, 2, 3, 1), path),
        {"input": {"layout": "nhwc"}},
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_file_does_not_say_of_its_input_is_tried(
    tmp_path: Path, name: str
) -> None:
    write, found = WRITERS[name]
    more = () if name == "one.pt2" else SIDE  # torch.export says which side

    assert look(write(tmp_path / name), tmp_path / "made", *more) == 0
    recipe = _made(tmp_path / "made")
    embedding, logits = served(tmp_path, tmp_path / "made").predict(patches())

    with torch.inference_mode():
        expected = classifier()(normalised(patches()))
    np.testing.assert_allclose(embedding, expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits, expected[1], rtol=1e-4, atol=1e-4)
    said = recipe.backend.model_dump(exclude_defaults=True)
    assert {key: said[key] for key in found} == found


@pytest.mark.parametrize("name", ["half.pt", "half.pt2"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_file_in_half_precision_gets_half_precision(
    tmp_path: Path, dtype: torch.dtype, name: str
) -> None:
    model = classifier().to(dtype)
    if name == "half.pt":
        _traced(model, EXAMPLE.to(dtype), tmp_path / name)
    else:
        _exported(model, EXAMPLE.to(dtype), tmp_path / name)

    assert look(tmp_path / name, tmp_path / "made", *SIDE) == 0
    _made(tmp_path / "made")
    _, logits = served(tmp_path, tmp_path / "made").predict(patches())

    with torch.inference_mode():
        expected = model(normalised(patches()).to(dtype))[1].float()
    close = 1e-4 if dtype == torch.float16 else 1e-2  # of one patch, and of several
    np.testing.assert_allclose(logits, expected, rtol=close, atol=close)


def test_what_a_program_complains_of_is_said_and_not_its_source(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE_PX**2, 2))
    _traced(model, EXAMPLE, tmp_path / "model.pt")

    assert look(tmp_path / "model.pt", tmp_path / "made", "--input-size-px", "48") == 1

    assert "shapes cannot be multiplied" in caplog.text
    assert "TorchScript interpreter" not in caplog.text
