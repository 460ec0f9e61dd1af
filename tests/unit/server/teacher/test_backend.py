from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moma_core.models.backbone import Normalise
from moma_core.models.encoder import Features
from moma_core.teacher.query import Pixels
from moma_server.teacher.inference.backend import TorchBackend
from tests.support.teacher.teacher_server import CARD

CPU = torch.device("cpu")


class Channels(nn.Module):
    """Returns the mean of each normalised channel."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Tensor | None = None

    def forward(self, images: Tensor) -> Features:
        self.seen = images
        means = images.mean(dim=(2, 3))
        return Features(means, means[:, :2] @ torch.eye(2))


def pixels(dtype: type) -> Pixels:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
    return values if dtype is np.uint8 else (values / 255).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pixels_are_normalised_as_the_card_says(dtype: type) -> None:
    backend = TorchBackend(Channels(), CARD, CPU)
    expected = (pixels(np.float32).mean(axis=(1, 2)) - CARD.mean) / CARD.std

    embedding, logits = backend.predict(pixels(dtype))

    np.testing.assert_allclose(embedding, expected, rtol=1e-4)
    np.testing.assert_allclose(logits, expected[:, :2], rtol=1e-4)


def test_a_remote_teacher_sees_what_a_local_one_sees_to_the_last_bit() -> None:
    model = Channels()
    views = torch.from_numpy(pixels(np.uint8)).permute(0, 3, 1, 2)

    TorchBackend(model, CARD, CPU).predict(pixels(np.uint8))

    assert model.seen is not None
    assert torch.equal(model.seen, Normalise(CARD.mean, CARD.std)(views))


def test_read_only_pixels_are_taken_and_left_alone() -> None:
    content = pixels(np.uint8).tobytes()
    view = np.frombuffer(content, np.uint8).reshape(2, 8, 8, 3)

    TorchBackend(Channels(), CARD, CPU).predict(view)

    assert view.tobytes() == content


def test_the_model_gets_images_with_channels_last_and_no_gradient() -> None:
    model = Channels()

    TorchBackend(model, CARD, CPU).predict(pixels(np.uint8))

    assert model.seen is not None
    assert model.seen.shape == (2, 3, 8, 8)
    assert model.seen.is_contiguous(memory_format=torch.channels_last)
    assert model.seen.is_inference()


def test_a_lower_precision_is_used_inside_and_answers_stay_float32() -> None:
    exact, _ = TorchBackend(Channels(), CARD, CPU).predict(pixels(np.uint8))
    card = replace(CARD, precision="bfloat16")

    embedding, logits = TorchBackend(Channels(), card, CPU).predict(pixels(np.uint8))

    assert embedding.dtype == logits.dtype == np.float32
    assert not np.array_equal(logits, exact[:, :2])
    np.testing.assert_allclose(logits, exact[:, :2], rtol=0.02, atol=0.02)


def test_an_unknown_precision_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="int4"):
        TorchBackend(Channels(), replace(CARD, precision="int4"), CPU)
