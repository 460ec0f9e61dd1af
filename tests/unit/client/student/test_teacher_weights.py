"""What each of several teachers counts in a round, as it was kept."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moma_client.student.teacher_weights import with_weights
from moma_core.errors import CheckpointError

_TEACHERS: Any = [
    SimpleNamespace(card=SimpleNamespace(name=name)) for name in ("one", "two")
]
_TASK: Any = SimpleNamespace(round=3)
_SOURCE: Any = None  # what is kept is measured no second time


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"one": {"weight": 1.0}},
        {name: {"weight": 0.5} for name in ("one", "two", "a third")},
        {"one": {"weight": "heavy"}, "two": {"weight": 0.5}},
        [],
    ],
)
def test_weights_that_are_not_of_these_teachers_are_one_sentence(
    tmp_path: Path, kept: object
) -> None:
    path = tmp_path / "teachers/000003.json"
    path.parent.mkdir()
    path.write_text(json.dumps(kept))

    with pytest.raises(CheckpointError, match=r"3\.json is damaged or of.*delete it"):
        with_weights(_TEACHERS, {}, _SOURCE, tmp_path, _TASK)
