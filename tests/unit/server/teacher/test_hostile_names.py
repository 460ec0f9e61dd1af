"""What a model, or who serves it, calls its tensors, and where a model is said to lie.

Such a name enters a sentence that an owner reads and, of a model server, a log.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moma_core.errors import ConfigError, TeacherUnavailableError
from moma_server.config.backend import FileBackend, OutputsOfModelSection
from moma_server.teacher.build.model_files import path_of
from moma_server.teacher.build.signature import input_of, outputs_of
from moma_server.teacher.inference.arrays import ArrayBackend, TensorShape
from tests.support.site.teacher_caches import CARD


class _Named:
    """A network whose tensors have names that somebody thought about."""

    inputs = tuple(
        TensorShape(f"\x1b[2J{'x' * 10_000}", "FP32", (None,) * n) for n in range(50)
    )
    outputs = ()

    def run(self, values: Any, _wanted: Any) -> dict[str, Any]:
        return {
            f"\x1b[2J\n{'x' * 10_000}{n}": np.zeros((len(values), 4), np.float32)
            for n in range(50)
        }


def _looked_at() -> object:
    return input_of(_Named(), None)


def _tried() -> object:
    shown = {name: rows[:, 0] for name, rows in _Named().run([0], ()).items()}
    return outputs_of(shown, ())


def _served() -> object:
    outputs = OutputsOfModelSection(embedding="embedding")
    backend = ArrayBackend(FileBackend(kind="onnx", outputs=outputs), CARD, _Named())
    return backend.predict(np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("use", [_looked_at, _tried, _served])
def test_names_of_tensors_are_quoted_and_few_in_a_sentence(
    use: Callable[[], object],
) -> None:
    with pytest.raises((ConfigError, TeacherUnavailableError)) as error:
        use()

    assert str(error.value).isprintable()
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a/b/c", "\x1b[2J"])
def test_what_is_no_name_of_the_hub_is_a_sentence(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name of the hub") as error:
        path_of(f"hf-hub:{name}")

    assert str(error.value).isprintable()
