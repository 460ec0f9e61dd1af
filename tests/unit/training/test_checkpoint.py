from pathlib import Path

import numpy as np
import pytest
import torch

from moma_core.errors import CheckpointError
from moma_core.training.checkpoint import (
    TrainingState,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)


def _state(run: str = "r") -> TrainingState:
    return TrainingState(
        version=1,
        run=run,
        step=7,
        adopted_round=0,
        distiller={"w": torch.ones(2)},
        teacher={},
        optimiser={},
        schedule={},
        scaler={},
        random=random_state(),
    )


def test_a_checkpoint_comes_back_with_every_random_state(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", _state())
    drawn = torch.rand(3), np.random.rand(3)

    state = load_checkpoint(tmp_path / "c.pt", "r")
    assert state is not None
    restore_random_state(state["random"])

    assert state["step"] == 7
    assert torch.equal(torch.rand(3), drawn[0])
    assert np.array_equal(np.random.rand(3), drawn[1])


def test_without_a_file_a_run_starts_anew(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "c.pt", "r") is None


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", _state("other"))

    with pytest.raises(CheckpointError, match="other settings"):
        load_checkpoint(tmp_path / "c.pt", "r")


@pytest.mark.parametrize("kept", [0, 10, 500])
def test_a_damaged_checkpoint_is_a_sentence(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, _state())
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(CheckpointError, match="cannot read"):
        load_checkpoint(path, "r")


def test_a_weight_that_a_disk_changed_is_not_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, _state())
    content = path.read_bytes()
    ones = np.ones(2, np.float32).tobytes()
    assert ones in content
    path.write_bytes(content.replace(ones, np.full(2, np.inf, np.float32).tobytes()))

    with pytest.raises(CheckpointError, match="it is not what was written"):
        load_checkpoint(path, "r")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"version": 1, "run": "r", "code": Path("x")}, path)

    with pytest.raises(CheckpointError, match="cannot read"):
        load_checkpoint(path, "r")


def test_a_partial_file_of_a_kill_does_not_hide_the_last_good_one(
    tmp_path: Path,
) -> None:
    save_checkpoint(tmp_path / "c.pt", _state())
    (tmp_path / "c.partial").write_bytes(b"half")

    state = load_checkpoint(tmp_path / "c.pt", "r")

    assert state is not None
    assert state["step"] == 7
