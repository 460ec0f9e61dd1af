"""Networks in files of other makers become teachers that answer as the files do."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from prometheus_client import CollectorRegistry
from torch import nn

from moma_core.errors import ConfigError, TeacherUnavailableError
from moma_server.cli.main import main
from moma_server.config.import_recipe import ImportRecipe
from moma_server.metrics.metrics import TeacherMetrics
from moma_server.rpc.background import BackgroundTasks
from moma_server.teacher.build.from_model import ImportedTeacher, teacher_from_model
from moma_server.teacher.inference.batcher import Batcher
from moma_server.teacher.inference.fair_queue import Job, QueueBounds
from tests.support.teacher.imported import (
    CLASSES,
    NAMES,
    SIDE_PX,
    classifier,
    normalised,
    patches,
    served,
)

pytest.importorskip("onnxruntime", reason="onnxruntime is the extra onnx")

CPU = torch.device("cpu")
EXAMPLE = torch.zeros(2, 3, SIDE_PX, SIDE_PX)


def _onnx(model: nn.Module, path: Path, *, dynamic: bool = True, **more: Any) -> Path:
    batch = torch.export.Dim("batch")
    settings: dict[str, Any] = {"output_names": ["features", "scores"], **more}
    torch.onnx.export(
        model,
        (EXAMPLE,),
        path,
        input_names=["images"],
        dynamic_shapes=({0: batch},) if dynamic else None,
        dynamo=True,
        external_data=False,
        verbose=False,
        **settings,
    )
    return path


def _exported(model: nn.Module, path: Path) -> Path:
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (EXAMPLE,), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


def _torchscript(model: nn.Module, path: Path) -> Path:
    with pytest.warns((FutureWarning, DeprecationWarning)):
        torch.jit.save(torch.jit.trace(model, EXAMPLE), str(path))
    return path


WRITERS = {
    "model.onnx": (_onnx, "features", "scores"),
    "model.pt2": (_exported, "0", "1"),
    "model.pt": (_torchscript, "0", "1"),
}
KINDS = {"model.onnx": "onnx", "model.pt2": "exported", "model.pt": "torchscript"}


def _imported(
    tmp_path: Path, model: Path, backend: dict[str, Any], **more: Any
) -> ImportedTeacher:
    values = {
        **NAMES,
        "model": str(model),
        "class_names": CLASSES,
        "backend": {"kind": KINDS[model.name], **backend},
        **more,
    }
    recipe = ImportRecipe.model_validate(values)
    return teacher_from_model(recipe, tmp_path / "made", CPU)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_answers_as_the_model_that_was_written_to_it(
    tmp_path: Path, name: str
) -> None:
    write, embedding_name, logits_name = WRITERS[name]
    model = classifier()
    write(model, tmp_path / name)
    outputs = {"embedding": embedding_name, "logits": logits_name}

    _imported(tmp_path, tmp_path / name, {"outputs": outputs})
    embedding, logits = served(tmp_path, tmp_path / "made").predict(patches())

    with torch.inference_mode():
        expected = model(normalised(patches()))
    np.testing.assert_allclose(embedding, expected[0].numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits, expected[1].numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", WRITERS)
def test_import_says_what_a_file_holds_and_writes_a_recipe_that_serves(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write, *_ = WRITERS[name]
    model = classifier()
    write(model, tmp_path / name)
    out = tmp_path / "made"
    line = ["teacher", "import", "--out", str(out), "--accelerator", "cpu"]
    look = [*line, str(tmp_path / name), "--input-size-px", str(SIDE_PX)]

    assert main([*look, "--classes", ",".join(CLASSES)]) == 0
    shown = capsys.readouterr().out
    path = out / "import.yaml"
    path.write_text(
        yaml.safe_dump(
            yaml.safe_load(path.read_text())
            | {"mean": NAMES["mean"], "std": NAMES["std"]}
        )
    )
    assert main([*line, "--recipe", str(path)]) == 0

    assert "keys:" not in (out / "import.yaml").read_text()  # of tensors alone
    for words in ("embedding    4 values", "classes      2", "mean, std: ImageNet's"):
        assert words in shown
    with torch.inference_mode():
        expected = model(normalised(patches()))
    _, logits = served(tmp_path, out).predict(patches())
    np.testing.assert_allclose(logits, expected[1].numpy(), rtol=1e-4, atol=1e-4)


class _Probabilities(nn.Module):
    """A classifier as others ship it: bytes in [0, 255], NHWC, a softmax at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = classifier()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.permute(0, 3, 1, 2).float() / 255
        return self.inner(images)[1].softmax(dim=1)


def test_bytes_in_another_layout_and_probabilities_are_described(
    tmp_path: Path,
) -> None:
    model = _Probabilities().eval()
    example = torch.zeros(2, SIDE_PX, SIDE_PX, 3, dtype=torch.uint8)
    torch.onnx.export(
        model,
        (example,),
        tmp_path / "model.onnx",
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
        output_names=["probabilities"],
    )
    out = tmp_path / "made"
    line = ["teacher", "import", "--out", str(out), "--accelerator", "cpu"]

    assert main([*line, str(tmp_path / "model.onnx")]) == 0
    recipe = ImportRecipe.from_yaml(out / "import.yaml")
    assert main([*line, "--recipe", str(out / "import.yaml")]) == 0

    backend: Any = recipe.backend
    assert (backend.input.layout, backend.input.values) == ("nhwc", "bytes")
    assert backend.outputs.probabilities
    assert recipe.input_size_px == SIDE_PX
    embedding, logits = served(tmp_path, out).predict(patches())
    with torch.inference_mode():
        expected = model(torch.from_numpy(patches()))
    shares = torch.from_numpy(logits).softmax(dim=1)
    np.testing.assert_allclose(shares, expected, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        images = torch.from_numpy(patches()).permute(0, 3, 1, 2).float() / 255
        before_logits = model.inner(images)[0]
    np.testing.assert_allclose(embedding, before_logits, rtol=1e-4, atol=1e-4)


def test_a_file_of_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    model = classifier()
    _onnx(model, tmp_path / "model.onnx", dynamic=False)
    outputs = {"embedding": "features", "logits": "scores"}

    _imported(
        tmp_path, tmp_path / "model.onnx", {"outputs": outputs, "batch_patches": 2}
    )
    _, logits = served(tmp_path, tmp_path / "made").predict(patches(5))

    with torch.inference_mode():
        expected = model(normalised(patches(5)))[1]
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-4, atol=1e-4)


class _TwoAlone(nn.Module):
    """Says that it takes any number of patches, and folds two into one."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means = images.mean(dim=(2, 3))
        return means, means[:, :2] - means.mean()


class _Nan(nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means = images.mean(dim=(2, 3))
        return means, (means[:, :2] - 1e9).sqrt()


def _fixed_inside(path: Path) -> Path:
    """An ONNX file whose batch axis is any, and whose network takes two alone."""
    import onnx
    from onnx import TensorProto, helper

    images = helper.make_tensor_value_info(
        "images", TensorProto.FLOAT, ["batch", 3, SIDE_PX, SIDE_PX]
    )
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])
    shape = helper.make_tensor(
        "two", TensorProto.INT64, [2], [2, 3 * SIDE_PX * SIDE_PX]
    )
    slices = [
        helper.make_tensor(name, TensorProto.INT64, [1], [value])
        for name, value in (("start", 0), ("end", 2), ("axis", 1))
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["images", "two"], ["flat"]),
            helper.make_node("Slice", ["flat", "start", "end", "axis"], ["scores"]),
        ],
        "fixed",
        [images],
        [scores],
        [shape, *slices],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


def test_dynamic_axes_that_do_not_serve_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = _fixed_inside(tmp_path / "model.onnx")

    with pytest.raises(
        ConfigError, match=r"does not serve .*batch_patches: 1"
    ) as found:
        _imported(tmp_path, path, {"outputs": {"logits": "scores"}})
    assert "\n" not in str(found.value)
    assert capfd.readouterr().err == ""  # nothing of the runtime's own beside it


@pytest.mark.parametrize(
    ("model", "outputs", "named"),
    [
        (_TwoAlone(), {}, "depends on those beside it"),
        (_Nan(), {}, "gives NaN or infinity"),
        (
            classifier(),
            {"embedding": "hidden"},
            "no output 'hidden'.*it has 'features'",
        ),
        (classifier(), {"pooling": "cls"}, r"is of \(N, T, D\)"),
    ],
)
def test_a_file_that_answers_wrongly_makes_no_teacher(
    tmp_path: Path, model: nn.Module, outputs: dict[str, Any], named: str
) -> None:
    _onnx(model.eval(), tmp_path / "model.onnx")
    found = {"embedding": "features", "logits": "scores", **outputs}

    with pytest.raises(ConfigError, match=named):
        _imported(tmp_path, tmp_path / "model.onnx", {"outputs": found})

    assert not (tmp_path / "made" / "card.json").exists()


@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of use")
    outputs = {"embedding": "0", "logits": "1"}

    with pytest.raises(ConfigError, match="cannot") as found:
        _imported(tmp_path, tmp_path / name, {"outputs": outputs})

    assert "\n" not in str(found.value)


def test_weights_beside_the_file_are_refused(tmp_path: Path) -> None:
    import onnx

    path = _onnx(classifier(), tmp_path / "model.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, size_threshold=0)

    with pytest.raises(ConfigError, match="has its weights beside it") as found:
        _imported(tmp_path, path, {"outputs": {"logits": "scores"}})
    assert "\n" not in str(found.value)


def test_without_the_runtime_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _onnx(classifier(), tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(ConfigError, match=r"moma-service\[onnx\]"):
        _imported(tmp_path, tmp_path / "model.onnx", {"outputs": {"logits": "scores"}})


class _LaterNan:
    """A model that breaks after its card was made."""

    def __init__(self, backend: Any) -> None:
        self.card = backend.card
        self._backend = backend

    def predict(self, pixels: Any) -> Any:
        embedding, logits = self._backend.predict(pixels)
        return embedding, logits * np.nan


def test_an_answer_of_nan_leaves_nobody_and_is_not_worked_for(tmp_path: Path) -> None:
    _onnx(classifier(), tmp_path / "model.onnx")
    outputs = {"embedding": "features", "logits": "scores"}
    _imported(tmp_path, tmp_path / "model.onnx", {"outputs": outputs})
    backend = _LaterNan(served(tmp_path, tmp_path / "made"))
    job_is_worked = []

    async def scenario() -> None:
        batcher = Batcher(
            backend,
            QueueBounds(),
            max_batch_patches=8,
            metrics=TeacherMetrics(CollectorRegistry()),
        )
        batcher.start(BackgroundTasks())
        job = Job("site-a", patches())
        with pytest.raises(TeacherUnavailableError, match="NaN or infinity"):
            await batcher.run(job)
        job_is_worked.append(job.worked)
        await batcher.close(1)

    asyncio.run(scenario())

    assert job_is_worked == [False]
