"""The section of the config that says who the teacher is and how it is queried.

A section says what its teacher is: `is_remote`, at another institution; `caches`, its
outputs are kept; `is_updated`, it follows the student by EMA updates.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from moma_core.config import ConfigPath, Section
from moma_core.data.patch import MOST_CLASSES
from moma_core.data.view_mask import MOST_VIEWS
from moma_core.end_to_end.hpke import SuiteName
from moma_core.end_to_end.signatures import FINGERPRINT_PATTERN
from moma_core.models.settings import BatchNorm, Schedule
from moma_core.network.address import Address
from moma_core.pki.identity import NAME_PATTERN
from moma_core.teacher.cache.header import Precision
from moma_core.teacher.pixel_encoding import ENCODING_PATTERN

TERMS_PATTERN = r"^[0-9a-f]{64}$"


class _AnyTeacherSection(Section):
    """What is said of a teacher wherever it is, beside others or alone."""

    weight: Annotated[float, Field(gt=0, le=1000)] | Literal["agreement"] = Field(
        default=1.0,
        description="Share among `teachers`, divided by their sum; agreement: by what "
        "its outputs say of this site's labels. Alone: no effect.",
    )
    classes: dict[str, str] | None = Field(
        default=None,
        max_length=MOST_CLASSES,
        description="As task.classes, for this teacher; null: task.classes.",
    )
    derived_models_permitted: bool = Field(
        default=False,
        description="true: this site may train students although the teacher's licence "
        "forbids derived models, as its owner permitted in writing.",
    )


class RemoteTeacherSection(_AnyTeacherSection):
    """A teacher at another institution."""

    is_remote: ClassVar[Literal[True]] = True

    name: str = Field(
        pattern=NAME_PATTERN, description="As in its certificate and card."
    )
    address: Address = Field(description="host:port of its service.")
    key: str = Field(
        pattern=FINGERPRINT_PATTERN,
        description="Its fingerprint, as `moma-server teacher key` prints it there.",
    )
    former_keys: tuple[Annotated[str, Field(pattern=FINGERPRINT_PATTERN)], ...] = Field(
        default=(),
        description="Fingerprints pinned before `key`; they verify older receipts.",
    )
    sealing: SuiteName = Field(
        default="mlkem768-x25519", description="The weakest suite that is accepted."
    )
    accepted_terms: str | None = Field(
        default=None,
        pattern=TERMS_PATTERN,
        description="SHA-256 of the terms of use you accept, as `doctor` prints it.",
    )
    via: Literal["coordinator"] | None = Field(
        default=None,
        description="coordinator: the address is its relay; null: the teacher's own.",
    )
    in_flight: int = Field(
        default=8, ge=1, le=64, description="Batches that are requested ahead."
    )
    answer_deadline_seconds: float = Field(
        default=60, gt=0, le=3600, description="A request without a response fails."
    )
    encoding: str = Field(
        default="raw",
        pattern=ENCODING_PATTERN,
        description="How patches are sent: raw, png, webp, or lossy as jpeg:1 to "
        "jpeg:100.",
    )


class FrozenTeacherSection(RemoteTeacherSection):
    """It is never updated: its outputs can be kept."""

    is_updated: ClassVar[Literal[False]] = False

    mode: Literal["frozen"]
    views: int = Field(
        default=4,
        ge=0,
        le=MOST_VIEWS,
        description="Views of a patch that are asked once and kept; 0: a query a step.",
    )
    renamed_keys = {  # noqa: RUF012
        "bank_precision": "cache_precision",
        "bank_key_file": "cache_key_file",
    }
    cache_precision: Precision = Field(
        default="float16", description="Number format of the teacher cache."
    )
    cache_key_file: ConfigPath | None = Field(
        default=None,
        description="File of 32 bytes that encrypts the teacher cache; null: plain.",
    )

    @property
    def caches(self) -> bool:
        """Whether outputs are kept, so that each view is queried once."""
        return self.views > 0


class MomentumTeacherSection(RemoteTeacherSection):
    """It keeps a copy for this site, which follows the student: for moma alone.

    Baselines query the teacher as it is.
    """

    caches: ClassVar[Literal[False]] = False
    is_updated: ClassVar[Literal[True]] = True

    mode: Literal["momentum"]
    weights_may_leave: bool = Field(
        default=False,
        description="Must be true: the student's mean weights go to the teacher.",
    )
    sync_every_steps: int = Field(
        default=1,
        ge=1,
        le=100_000,
        description="Weights are sent once in so many steps; 1: as published.",
    )
    schedule: Schedule = Field(
        default="published",
        description="published: logits before the update; single_pass: after it.",
    )
    batch_norm: BatchNorm = Field(
        default="moving",
        description="moving: running statistics follow; adapt: each batch's own.",
    )
    sync_deadline_seconds: float = Field(
        default=120, gt=0, le=3600, description="The weights must have arrived by then."
    )

    @model_validator(mode="after")
    def _weights_may_leave(self) -> Self:
        if not self.weights_may_leave:
            raise ValueError(
                "mode 'momentum' sends the student's weights to the teacher: say "
                "weights_may_leave: true, or choose mode 'frozen'"
            )
        return self


class LocalTeacherSection(_AnyTeacherSection):
    """A teacher whose weights lie on this site's own disk."""

    is_remote: ClassVar[Literal[False]] = False
    caches: ClassVar[Literal[False]] = False

    mode: Literal["local"]
    card: ConfigPath = Field(description="The teacher's card.json.")
    weights_file: ConfigPath = Field(description="The teacher's weights, safetensors.")
    key: str | None = Field(
        default=None,
        pattern=FINGERPRINT_PATTERN,
        description="Fingerprint that must have signed the card; null: not checked.",
    )
    accepted_terms: str | None = Field(
        default=None,
        pattern=TERMS_PATTERN,
        description="SHA-256 of the terms of use you accept, as `doctor` prints it.",
    )
    schedule: Literal["published", "single_pass", "frozen"] = Field(
        default="published",
        description="When moma moves the teacher; baselines use a frozen one.",
    )
    batch_norm: BatchNorm = Field(
        default="moving",
        description="moving: running statistics follow; adapt: each batch's own.",
    )

    @property
    def is_updated(self) -> bool:
        """Whether the teacher follows the student by EMA updates."""
        return self.schedule != "frozen"

    @model_validator(mode="after")
    def _frozen_is_frozen(self) -> Self:
        if self.schedule == "frozen" and self.batch_norm != "moving":
            raise ValueError(
                f"batch_norm {self.batch_norm!r} is for a teacher that moves, "
                f"schedule 'frozen' has none"
            )
        return self


TeacherSection = Annotated[
    FrozenTeacherSection | MomentumTeacherSection | LocalTeacherSection,
    Field(discriminator="mode"),
]
