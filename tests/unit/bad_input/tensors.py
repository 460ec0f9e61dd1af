"""Checkpoints of runs, weights of others, weights of a round."""

import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from moma_core.federation.weights import weights_from_bytes
from moma_core.models.checkpoints import read_tensors
from moma_core.models.weights import check_safetensors
from moma_core.training.checkpoint import load_checkpoint
from tests.unit.bad_input.table import BadInput, written


class _Code:
    def __reduce__(self) -> Any:
        return print, ("code runs",)


def _saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _of_later_version(archive: bytes) -> bytes:
    """Returns an archive whose entries need version 24.7 of the format."""
    return re.sub(rb"(?s)(?<=PK\x01\x02..)..", bytes([247, 0]), archive)


def _resumed(path: Path) -> object:
    return load_checkpoint(path, "r")


CHECKPOINTS = (
    BadInput(
        "an empty checkpoint",
        written(_resumed, "c.pt", b""),
        "cannot read ./c.pt: it is damaged",
    ),
    BadInput(
        "a checkpoint that runs code",
        written(_resumed, "c.pt", pickle.dumps(_Code())),
        "cannot read ./c.pt: it is damaged",
    ),
    BadInput(
        "a checkpoint that saves code",
        written(_resumed, "c.pt", _saved(_Code())),
        "cannot read ./c.pt: it is damaged",
    ),
    BadInput(
        "a checkpoint that is a list",
        written(_resumed, "c.pt", _saved([1])),
        "cannot read ./c.pt: it is no checkpoint",
    ),
    BadInput(
        "a checkpoint of another release",
        written(_resumed, "c.pt", _saved({"version": 9})),
        "./c.pt has version '9', not 1",
    ),
    BadInput(
        "a checkpoint of another run",
        written(_resumed, "c.pt", _saved({"version": 1, "run": "x"})),
        "./c.pt belongs to a run with other settings, patches or classes: undo what "
        "was changed since it began, or move it away to start anew",
    ),
    BadInput(
        "weights of others that run code",
        written(read_tensors, "t.pt", _saved({"m": _Code()})),
        "./t.pt is a pickle of more than tensors, such as print, which would "
        "run code: save the model's state_dict(), or safetensors",
    ),
    BadInput(
        "weights of others without a tensor",
        written(read_tensors, "t.pt", _saved({"a": 1})),
        "./t.pt holds no tensors; it has a",
    ),
    BadInput(
        "weights of others that are text",
        written(read_tensors, "t.pt", b"weights"),
        "./t.pt is a pickle of more than tensors, or none: save the model's "
        "state_dict(), or safetensors",
    ),
    BadInput(
        "half a file of weights of others",
        written(read_tensors, "t.pt", _saved({"a": torch.ones(9)})[:300]),
        "cannot read weights ./t.pt: the file is damaged, or not what "
        "torch.save writes (RuntimeError)",
    ),
    BadInput(
        "weights of others in an archive of a later version",
        written(read_tensors, "t.pt", _of_later_version(_saved({"a": torch.ones(9)}))),
        "cannot read ./t.pt: it is damaged (zip file version 24.7); fetch it again",
    ),
    BadInput(
        "weights named like a pickle",
        written(check_safetensors, "w.pth", b""),
        "weights ./w.pth are named like a pickle, which can run code when it is"
        " read: only safetensors are read",
    ),
    BadInput(
        "weights that are a pickle",
        written(check_safetensors, "w.safetensors", pickle.dumps({})),
        "weights ./w.safetensors are no safetensors file; a pickle is never "
        "read, it can run code",
    ),
    BadInput(
        "weights that are not there",
        lambda folder: check_safetensors(folder / "w.safetensors"),
        "cannot read weights ./w.safetensors: [Errno 2] No such file or "
        "directory: './w.safetensors'",
    ),
)


def _weights(name: str, content: bytes, says: str) -> BadInput:
    return BadInput(name, lambda _: weights_from_bytes(content, max_bytes=4096), says)


def _tensors(**tensors: Any) -> bytes:
    arrays: Mapping[str, Any] = {k: np.asarray(v) for k, v in tensors.items()}
    return save(dict(arrays))


WEIGHTS = (
    _weights(
        "weights that are cut",
        _tensors(w=np.ones(9))[:40],
        "the weights are not whole safetensors",
    ),
    _weights(
        "weights that are a pickle's",
        pickle.dumps({"w": 1}),
        "the weights are not whole safetensors",
    ),
    _weights(
        "weights of more than was agreed",
        bytes(5000),
        "the weights have 5000 bytes, at most 4096 are taken",
    ),
    _weights(
        "weights of NaN", _tensors(w=[np.nan]), "w holds a value that is not finite"
    ),
    _weights(
        "weights beyond all measure", _tensors(w=[1e38]), "w holds a value beyond 1e+09"
    ),
    _weights("weights of another type", _tensors(w=[True]), "w has the type bool"),
    _weights(
        "a variance below zero",
        _tensors(**{"bn.running_var": [-1.0]}),
        "bn.running_var holds a variance below zero",
    ),
    _weights(
        "a tensor whose name is a command",
        _tensors(**{"\x1b[2J": [1.0]}),
        "a tensor of the weights has no proper name",
    ),
)
