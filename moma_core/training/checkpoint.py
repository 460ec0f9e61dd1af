"""Everything that a resume needs, in one file, written whole or not at all."""

import random
import zipfile
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch

from moma_core.errors import CheckpointError, DiskError, TrainingError
from moma_core.runtime.files import make_folder, replacing

VERSION = 1


class TrainingState(TypedDict):
    """What a checkpoint holds.

    Keys: `version`; `run`, the settings' digest, so that a checkpoint is not resumed
    under other settings; `step`, the next one; `adopted_round`, the last round whose
    federated weights went in; `distiller` (student, heads, attention, bank with
    cursor), `teacher` (weights of one that is updated), `optimiser`, `schedule`,
    `scaler` (of mixed precision); `random`, every generator's state. What earlier
    releases did not write: `average`, the student's moving one; `best`, the best epoch;
    `skipped_steps`, `unused_epochs`, `micro_batch_size` as in the trainer; `loaded`,
    which weights those of `adopted_round` were.
    """

    version: int
    run: str
    step: int
    adopted_round: int
    distiller: dict[str, Any]
    teacher: dict[str, Any]
    optimiser: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any]
    random: dict[str, Any]
    average: NotRequired[dict[str, Any]]
    best: NotRequired[dict[str, Any]]
    skipped_steps: NotRequired[int]
    unused_epochs: NotRequired[int]
    micro_batch_size: NotRequired[int | None]
    loaded: NotRequired[str]


def random_state() -> dict[str, Any]:
    """Returns the state of every generator: torch's, CUDA's, numpy's, Python's."""
    mersenne: dict[str, Any] = np.random.get_state(legacy=False)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy_key": torch.from_numpy(mersenne["state"]["key"].copy()),
        "numpy": {**mersenne, "state": {"pos": int(mersenne["state"]["pos"])}},
        "python": [version, list(internal), gauss],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Puts every generator back to what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    position = {**state["numpy"]["state"], "key": state["numpy_key"].numpy()}
    np.random.set_state({**state["numpy"], "state": position})
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def save_checkpoint(path: Path, state: TrainingState) -> None:
    """Writes the state; a kill or a full disk leaves the old one or the new.

    Raises:
        CheckpointError: The disk does not take it.
        TrainingError: A weight is not finite: a resumed run could not mend that.
    """
    for name, tensor in state["distiller"].items():
        if not tensor.isfinite().all():
            raise TrainingError(f"{name} is not finite after step {state['step']}")
    try:
        make_folder(path.parent)
        # torch says RuntimeError where a write fails, over what the disk said
        with replacing(path, "the checkpoint", RuntimeError) as file:
            torch.save(state, file)
    except DiskError as error:
        raise CheckpointError(str(error)) from error


def load_checkpoint(path: Path, run: str, former_run: str = "") -> TrainingState | None:
    """Returns the state in `path`, or None where there is none yet.

    Only tensors and plain values are read, never code.

    Args:
        path: Where `save_checkpoint` wrote.
        run: Digest of the settings that the resumed run has.
        former_run: Digest that it had in the release before, if it is another.

    Raises:
        CheckpointError: The file is damaged, or of a run with other settings.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch looks at no checksum
            changed = archive.testzip()
        state: TrainingState = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the border: torch raises anything for damaged files
        raise CheckpointError(f"cannot read {path}: it is damaged") from error
    if changed is not None:
        raise CheckpointError(f"cannot read {path}: it is not what was written")
    if not isinstance(state, dict):
        raise CheckpointError(f"cannot read {path}: it is no checkpoint")
    if state.get("version") != VERSION:
        version = str(state.get("version"))[:20]
        raise CheckpointError(f"{path} has version {version!r}, not {VERSION}")
    if str(state.get("run")) not in {run, former_run}:
        raise CheckpointError(
            f"{path} belongs to a run with other settings, patches or classes: undo "
            f"what was changed since it began, or move it away to start anew"
        )
    return state
