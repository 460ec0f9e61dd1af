"""The section of the config that says who the teacher is and how it is asked."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from moma_core.config import ConfigPath, Section
from moma_core.data.view_mask import MOST_VIEWS
from moma_core.end_to_end.hpke import SuiteName
from moma_core.end_to_end.signatures import FINGERPRINT_PATTERN
from moma_core.models.settings import BatchNorm, Schedule
from moma_core.pki.names import NAME_PATTERN
from moma_core.teacher.cache.header import Precision
from moma_core.teacher.pixel_encoding import ENCODING_PATTERN

ADDRESS = r"^[A-Za-z0-9._-]+:[0-9]{1,5}$"


TERMS_PATTERN = r"^[0-9a-f]{64}$"


class RemoteTeacherSection(Section):
    """A teacher at another institution."""

    name: str = Field(
        pattern=NAME_PATTERN, description="As in its certificate and card."
    )
    address: str = Field(pattern=ADDRESS, description="host:port of its service.")
    key: str = Field(
        pattern=FINGERPRINT_PATTERN,
        description="Its fingerprint, as `moma-server teacher key` prints it there.",
    )
    former_keys: tuple[Annotated[str, Field(pattern=FINGERPRINT_PATTERN)], ...] = Field(
        default=(), description="That were pinned before it: of older receipts."
    )
    sealing: SuiteName = Field(
        default="mlkem768-x25519", description="The weakest suite that is accepted."
    )
    accepted_terms: str | None = Field(
        default=None, pattern=TERMS_PATTERN, description="`doctor` shows the digest."
    )
    via: Literal["coordinator"] | None = Field(
        default=None, description="Whose relay the address is; None: the teacher's own."
    )
    in_flight: int = Field(default=8, ge=1, le=64, description="Batches read ahead.")
    answer_deadline_seconds: float = Field(default=60, gt=0, le=3600)
    encoding: str = Field(
        default="raw",
        pattern=ENCODING_PATTERN,
        description="Of patches: raw, png, webp, or jpeg:1 to jpeg:100, which loses.",
    )

    @property
    def is_remote(self) -> Literal[True]:
        """Whether another institution answers, over the network."""
        return True


class FrozenTeacherSection(RemoteTeacherSection):
    """It answers, and never moves: what it answered can be kept."""

    mode: Literal["frozen"]
    views: int = Field(
        default=4, ge=0, le=MOST_VIEWS, description="Of a patch; 0: a query a step."
    )
    renamed_keys = {  # noqa: RUF012
        "bank_precision": "cache_precision",
        "bank_key_file": "cache_key_file",
    }

    cache_precision: Precision = Field(
        default="float16", description="In which answers are kept."
    )
    cache_key_file: ConfigPath | None = Field(
        default=None, description="32 bytes; encrypts the answers that are kept."
    )

    @property
    def caches(self) -> bool:
        """Whether outputs are kept, so that each view is queried once."""
        return self.views > 0

    @property
    def is_updated(self) -> Literal[False]:
        """Whether the teacher follows the student by EMA updates."""
        return False


class MomentumTeacherSection(RemoteTeacherSection):
    """It keeps a copy for this site, which follows the student: for moma alone.

    Baselines ask the teacher as it is.
    """

    mode: Literal["momentum"]
    weights_may_leave: bool = Field(
        default=False,
        description="The mean of the student's weights goes to the teacher.",
    )
    sync_every_steps: int = Field(
        default=1, ge=1, le=100_000, description="1: as published; S: once in S steps."
    )
    schedule: Schedule = Field(
        default="published", description="single_pass: logits after the move, too."
    )
    batch_norm: BatchNorm = Field(
        default="moving", description="adapt: by each batch's own statistics."
    )
    sync_deadline_seconds: float = Field(
        default=120, gt=0, le=3600, description="For the weights to arrive."
    )

    @property
    def caches(self) -> Literal[False]:
        """Outputs change with each update: none is kept."""
        return False

    @property
    def is_updated(self) -> Literal[True]:
        """Whether the teacher follows the student by EMA updates."""
        return True

    @model_validator(mode="after")
    def _weights_may_leave(self) -> Self:
        if not self.weights_may_leave:
            raise ValueError(
                "mode 'momentum' sends the student's weights to the teacher: say "
                "weights_may_leave: true, or choose mode 'frozen'"
            )
        return self


class LocalTeacherSection(Section):
    """A teacher whose weights lie on this site's own disk."""

    mode: Literal["local"]
    card: ConfigPath = Field(description="Its card.json.")
    weights_file: ConfigPath = Field(description="Its weights, safetensors.")
    key: str | None = Field(
        default=None,
        pattern=FINGERPRINT_PATTERN,
        description="Its fingerprint: the card must be signed with it.",
    )
    accepted_terms: str | None = Field(
        default=None, pattern=TERMS_PATTERN, description="`doctor` shows the digest."
    )
    schedule: Literal["published", "single_pass", "frozen"] = Field(
        default="published", description="Of moma; baselines learn from a frozen one."
    )
    batch_norm: BatchNorm = Field(
        default="moving", description="adapt: by each batch's own statistics."
    )

    @property
    def is_remote(self) -> Literal[False]:
        """Whether another institution answers, over the network."""
        return False

    @property
    def caches(self) -> Literal[False]:
        """A teacher on this disk is queried anew: nothing is charged for it."""
        return False

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
