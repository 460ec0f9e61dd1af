"""How a student is trained: everything that is not the method itself."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from moma_core.config import Section


class TrainingSettings(Section):
    """Optimiser, schedule, batches, hardware; the paper's where it has a number."""

    batch_size: int = Field(default=64, ge=2, le=4096, description="Patches a step.")
    learning_rate: float = Field(
        default=0.05, gt=0, le=10, description="Highest learning rate of SGD."
    )
    sgd_momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(
        default=1e-4, ge=0, le=1, description="Weight decay of SGD."
    )
    warmup_steps: int = Field(
        default=0, ge=0, description="Linear warm-up before the cosine schedule."
    )
    clip_norm: float = Field(
        default=5.0, gt=0, description="The whole gradient is clipped to this norm."
    )
    labelled_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of labelled rows in a batch, where some are unlabelled.",
    )
    seed: int = Field(
        default=1, ge=0, lt=2**32, description="Seed of weights, batches and views."
    )
    accelerator: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where to train; auto: a GPU if there is one."
    )
    devices: int = Field(default=1, ge=1, le=64, description="GPUs, or CPU processes.")
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = Field(
        default="32-true", description="Arithmetic, as Lightning Fabric names it."
    )
    channels_last: bool = Field(
        default=True, description="Whether images lie channels-last in memory."
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads of torch; null: its own."
    )
    workers: int = Field(
        default=0, ge=0, le=64, description="Processes that decode patches; 0: none."
    )
    checkpoint_every_steps: int = Field(
        default=50, ge=1, description="Steps between two checkpoints."
    )


# What a resumed run may change: it decides where and how fast, not what is computed.
_FREE = {"accelerator", "threads", "workers", "checkpoint_every_steps"}


def run_digest(training: TrainingSettings, rest: Mapping[str, Any]) -> str:
    """Returns the SHA-256, hex, of all that must not change between two resumes.

    Args:
        training: Without what is free to change.
        rest: Of the caller, as JSON would have it: model, method, classes, epochs.
    """
    fixed = {**rest, "training": training.model_dump(mode="json", exclude=_FREE)}
    text = json.dumps(fixed, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
