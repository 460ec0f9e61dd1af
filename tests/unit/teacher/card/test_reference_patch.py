import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from moma_core.errors import DataError, MismatchError
from moma_core.models.backbone import Backbone, Normalise, create_backbone
from moma_core.models.settings import ModelSection
from moma_core.teacher.card.reference_patch import (
    ReferencePatch,
    expect,
    synthetic_patch,
)

SIDE_PX = 32
CLASSES = 4


def network(seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    section = ModelSection(architecture="test_efficientnet", weights="random")
    return create_backbone(section, CLASSES).eval()


@torch.inference_mode()
def said(
    model: Backbone, batch: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns what a network says to the first of some patches."""
    images = torch.from_numpy(batch.copy()).permute(0, 3, 1, 2)
    features = model(Normalise(model.mean, model.std)(images))
    return features.embedding[0].numpy(), features.logits[0].numpy()


def reference_patch_of(model: Backbone) -> ReferencePatch:
    patch = synthetic_patch(0, SIDE_PX)
    return expect(*said(model, patch[np.newaxis]), precision="float32")


def png_of(pixels: NDArray[np.uint8]) -> str:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def test_a_synthetic_patch_is_the_same_wherever_it_is_made() -> None:
    patch = synthetic_patch(0, 224)

    assert patch.shape == (224, 224, 3)
    assert patch.dtype == np.uint8
    assert patch[:2, 0].tolist() == [[49, 64, 126], [100, 52, 149]]
    assert int(patch.sum(dtype=np.int64)) == 18_862_513
    assert not np.array_equal(patch, synthetic_patch(1, 224))


@pytest.mark.parametrize("count", [1, 2, 16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_same_weights_pass_whatever_batch_and_memory_format(
    count: int, layout: torch.memory_format
) -> None:
    model = network()
    golden = reference_patch_of(model)
    others = [synthetic_patch(seed, SIDE_PX) for seed in range(1, count)]
    batch = np.stack([golden.pixels(SIDE_PX), *others])

    embedding, logits = said(model.to(memory_format=layout), batch)

    replace(golden, tolerance=1e-5).check(embedding, logits)  # far from the bound
    assert golden.tolerance == 0.02


def test_other_weights_fail_and_the_field_is_named() -> None:
    golden = reference_patch_of(network(0))
    answer = said(network(1), golden.pixels(SIDE_PX)[np.newaxis])

    with pytest.raises(
        MismatchError, match=r"reference patch, embedding: differs by .*0\.02"
    ):
        golden.check(*answer)


def test_one_training_step_is_another_model() -> None:
    model = network()
    golden = reference_patch_of(model)
    patch = golden.pixels(SIDE_PX)
    batch = np.stack([synthetic_patch(seed, SIDE_PX) for seed in range(1, 9)])
    model.train()
    images = torch.from_numpy(batch).permute(0, 3, 1, 2)
    logits = model(Normalise(model.mean, model.std)(images)).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(8) % CLASSES)
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=1e-4).step()

    with pytest.raises(MismatchError, match="reference patch, embedding"):
        golden.check(*said(model.eval(), patch[np.newaxis]))


def test_exchanged_channels_fail() -> None:
    model = network()
    golden = reference_patch_of(model)
    swapped = golden.pixels(SIDE_PX)[np.newaxis, :, :, ::-1]

    with pytest.raises(MismatchError):
        golden.check(*said(model, swapped))


def test_another_classifier_fails_by_its_logits() -> None:
    model = network()
    golden = reference_patch_of(model)
    embedding, logits = said(model, golden.pixels(SIDE_PX)[np.newaxis])

    with pytest.raises(
        MismatchError, match=r"reference patch, logits: differs by 0\.1"
    ):
        golden.check(embedding, logits * np.float32(1.1))


@pytest.mark.parametrize(
    ("embedding", "logits", "named"),
    [
        (
            np.zeros(5, np.float32),
            np.zeros(4, np.float32),
            "reference patch, embedding",
        ),
        (
            np.full(8, np.nan, np.float32),
            np.ones(4, np.float32),
            "reference patch, embedding",
        ),
        (np.ones(8, np.float32), np.zeros(3, np.float32), "reference patch, logits"),
    ],
)
def test_answers_of_another_length_and_nan_fail(
    embedding: NDArray[np.float32], logits: NDArray[np.float32], named: str
) -> None:
    golden = expect(np.ones(8, np.float32), np.ones(4, np.float32), precision="float32")

    with pytest.raises(MismatchError, match=named):
        golden.check(embedding, logits)


def test_a_patch_of_the_teachers_choice_travels_as_png() -> None:
    chosen = synthetic_patch(7, SIDE_PX)
    ones = np.ones(3, np.float32)
    golden = replace(expect(ones, ones, precision="float32"), png=png_of(chosen))

    assert np.array_equal(golden.pixels(SIDE_PX), chosen)


@pytest.mark.parametrize(
    "png",
    [
        "no base64!",
        base64.b64encode(b"GIF89a").decode(),
        png_of(synthetic_patch(0, 16)),
        png_of(synthetic_patch(0, SIDE_PX))[:200],
    ],
    ids=["text", "other format", "other side", "cut"],
)
def test_what_is_no_patch_is_refused(png: str) -> None:
    golden = ReferencePatch(embedding="", logits="", tolerance=0.01, png=png)

    with pytest.raises(DataError, match="reference patch"):
        golden.pixels(SIDE_PX)
