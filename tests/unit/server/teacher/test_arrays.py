"""Models that take and give arrays by name, and how many patches they take at once."""

from dataclasses import replace

import numpy as np
import pytest

from moma_core.errors import TeacherUnavailableError
from moma_server.config.backend import FileBackend, OutputsOfModelSection
from moma_server.teacher.inference.arrays import (
    Array,
    ArrayBackend,
    TensorShape,
    TooManyPatchesError,
)
from tests.support.teacher.imported import patches
from tests.support.teacher.teacher_server import CARD

SIDE_PX = 8


class Channels:
    """Gives the mean of each channel, of so many patches at once and no more."""

    def __init__(self, most: int) -> None:
        self.inputs: tuple[TensorShape, ...] = ()
        self.outputs: tuple[TensorShape, ...] = ()
        self.asked: list[int] = []
        self.most = most

    def run(self, values: Array, wanted: tuple[str, ...]) -> dict[str, Array]:
        self.asked.append(len(values))
        if len(values) > self.most:
            raise TooManyPatchesError("the model server behind the teacher failed")
        return dict.fromkeys(wanted, values.mean(axis=(2, 3)))


def _backend(runner: Channels, batch_patches: int | None = None) -> ArrayBackend:
    section = FileBackend(
        kind="onnx",
        outputs=OutputsOfModelSection(embedding="means"),
        batch_patches=batch_patches,
    )
    return ArrayBackend(section, replace(CARD, input_size_px=SIDE_PX), runner)


def test_a_model_that_takes_fewer_patches_gets_them_in_parts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runner = Channels(most=3)
    backend = _backend(runner)
    pixels = patches(7, SIDE_PX)
    whole, _ = _backend(Channels(most=7)).predict(pixels)

    parts, logits = backend.predict(pixels)
    first, runner.asked = runner.asked, []
    backend.predict(pixels)

    np.testing.assert_array_equal(parts, whole)
    assert logits.shape == (7, 0)
    assert first == [7, 3, 3, 1]
    assert runner.asked == [3, 3, 1]
    (line,) = caplog.messages
    assert line.endswith("7 patches at once: it gets 3 from now on")


@pytest.mark.parametrize(("patches_asked", "fixed"), [(5, None), (1, None), (5, 2)])
def test_a_model_that_takes_none_fails_as_it_says(
    patches_asked: int, fixed: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    backend = _backend(Channels(most=0), fixed)

    with pytest.raises(TeacherUnavailableError) as failed:
        backend.predict(patches(patches_asked, SIDE_PX))

    assert type(failed.value) is TeacherUnavailableError  # a site is told its meaning
    assert not caplog.messages


def test_a_server_that_is_busy_for_once_does_not_get_fewer_patches_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runner = Channels(most=8)
    backend = _backend(runner)
    pixels = patches(8, SIDE_PX)
    backend.predict(pixels)

    runner.most = 0
    with pytest.raises(TeacherUnavailableError):
        backend.predict(pixels)
    runner.most = 8
    backend.predict(pixels)

    assert runner.asked == [8, 8, 8]
    assert not caplog.messages


def test_a_server_whose_limit_was_lowered_gets_fewer_after_one_failure() -> None:
    runner = Channels(most=8)
    backend = _backend(runner)
    pixels = patches(8, SIDE_PX)
    backend.predict(pixels)

    runner.most = 4
    with pytest.raises(TeacherUnavailableError):
        backend.predict(pixels)
    runner.asked = []
    backend.predict(pixels)

    assert runner.asked == [8, 4, 4]
