"""How a student is trained: everything that is not the method itself."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from moma_core.config import Section

_HIGHEST_ADAMW_RATE = 0.01


class TrainingSettings(Section):
    """Optimiser, schedule, batches, hardware; the paper's where it has a number."""

    added_keys: ClassVar[Mapping[str, object]] = {
        "micro_batch_size": None,
        "optimiser": "sgd",
        "head_learning_rate": None,
        "ema_decay": 0.0,
        "label_smoothing": 0.0,
        "balance": "none",
        "mixup": 0.0,
        "freeze_stages": 0,
        "keep": "last",
        "keep_by": "macro_f1",
        "patience": 0,
    }

    batch_size: int = Field(default=64, ge=2, le=4096, description="Patches a step.")
    micro_batch_size: int | None = Field(
        default=None,
        ge=2,
        le=4096,
        description="Patches that the student sees at once on a device (gradient "
        "accumulation): less memory, more time. The losses are those of the whole "
        "batch; a batch norm sees so many. null: all of them, halved where a GPU's "
        "memory does not suffice.",
    )
    optimiser: Literal["sgd", "adamw"] = Field(
        default="sgd", description="sgd as measured; adamw needs another learning_rate."
    )
    learning_rate: float = Field(
        default=0.05,
        gt=0,
        le=10,
        description="Highest learning rate; of adamw at most 0.01, such as 0.0005.",
    )
    head_learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="The same of the classifier and the method's own layers; null: "
        "learning_rate.",
    )
    sgd_momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(
        default=1e-4, ge=0, le=1, description="Weight decay of the optimiser."
    )
    warmup_steps: int = Field(
        default=0, ge=0, description="Linear warm-up before the cosine schedule."
    )
    clip_norm: float = Field(
        default=5.0, gt=0, description="The whole gradient is clipped to this norm."
    )
    max_skipped_steps: int = Field(
        default=10,
        ge=0,
        description="Steps of a run that are left out because loss or gradient is not "
        "finite, before the run stops.",
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="The student that is kept is the moving average of the one that "
        "learns, with this decay, such as 0.99; 0: the one that learns.",
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Of the cross-entropy; 0: none."
    )
    balance: Literal["none", "weights", "sampler"] = Field(
        default="weights",
        description="For classes of unlike size. weights: a class weighs in the "
        "cross-entropy by one over its size; sampler: labelled patches are drawn "
        "class by class.",
    )
    mixup: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Alpha of MixUp, such as 0.2; 0: off. Only where no teacher "
        "is asked (ce, `teacher train`): a teacher's output is of one patch.",
    )
    freeze_stages: int = Field(
        default=0,
        ge=0,
        description="So many of the network's first stages, its stem counted, do not "
        "learn.",
    )
    keep: Literal["last", "best"] = Field(
        default="last",
        description="best: the student of the epoch with the best figure on the "
        "validation split; last: the one of the last step.",
    )
    keep_by: Literal["macro_f1", "accuracy"] = Field(
        default="macro_f1", description="The figure for `keep` and `patience`."
    )
    patience: int = Field(
        default=0,
        ge=0,
        description="A round ends after so many epochs in a row without a better "
        "figure; 0: it takes all of its epochs.",
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
    workers: Annotated[int, Field(ge=0, le=64)] | Literal["auto"] = Field(
        default="auto",
        description="Processes that decode patches. auto: none where a CPU trains, "
        "which they would compete with; else one a core but one, 16 at most.",
    )
    prefetch_batches: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Batches that each of these processes holds ready.",
    )
    checkpoint_every_steps: int = Field(
        default=50, ge=1, description="Steps between two checkpoints."
    )
    log_every_seconds: float = Field(
        default=30,
        ge=0,
        description="At most so often the log tells losses, speed and the time left; "
        "0: never.",
    )
    record_every_steps: int = Field(
        default=10,
        ge=0,
        description="So often metrics.csv and TensorBoard's file, beside the "
        "checkpoint, get a line; 0: neither is written.",
    )

    @property
    def validates(self) -> bool:
        """Whether the validation split is looked at after every epoch."""
        return self.keep == "best" or self.patience > 0

    @model_validator(mode="after")
    def _rate_fits_the_optimiser(self) -> Self:
        for key in ("learning_rate", "head_learning_rate"):
            rate = getattr(self, key)
            if self.optimiser == "adamw" and rate and rate > _HIGHEST_ADAMW_RATE:
                raise ValueError(
                    f"{key} {rate} is too high for adamw: write one of at most "
                    f"{_HIGHEST_ADAMW_RATE}, such as 0.0005"
                )
        return self

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> Self:
        size = self.micro_batch_size
        if size is not None and size > self.batch_size:
            raise ValueError(
                f"micro_batch_size {size} is larger than batch_size {self.batch_size}"
            )
        return self


# What a resumed run may change: it decides where and how fast, not what is computed.
_FREE = {
    "accelerator",
    "threads",
    "workers",
    "prefetch_batches",
    "checkpoint_every_steps",
    "log_every_seconds",
    "record_every_steps",
    "max_skipped_steps",
}


def former_defaults(training: TrainingSettings) -> TrainingSettings:
    """Returns the settings as the release before read the same file."""
    if "balance" in training.model_fields_set:
        return training
    return training.model_copy(update={"balance": "none"})


def run_digest(training: TrainingSettings, rest: Mapping[str, Any]) -> str:
    """Returns the SHA-256, hex, of all that must not change between two resumes.

    Args:
        training: Without what is free to change.
        rest: Of the caller, as JSON would have it: model, method, classes, epochs.
    """
    chosen = training.without_added()
    kept = {key: value for key, value in chosen.items() if key not in _FREE}
    text = json.dumps({**rest, "training": kept}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
