"""What a teacher grants and bounds: sections of `server.yaml`."""

from pydantic import Field

from moma_core.config import ConfigPath, Section
from moma_core.policy.outputs import Precision as OutputPrecision


class BudgetSection(Section):
    """What each site may ask over the life of the agreement."""

    default_patches: int = Field(default=0, ge=0, description="0: nobody unnamed.")
    sites: dict[str, int] = Field(default_factory=dict)


class OutputsSection(Section):
    """What of an answer a site is told."""

    embedding: bool = True
    logits: bool = True
    top_k: int | None = Field(
        default=None, ge=1, description="Only so many logits; 1: the class alone."
    )
    precision: OutputPrecision = Field(
        default="float32", description="To which numbers are rounded."
    )


class PolicySection(Section):
    """What each site may ask, beside its budget."""

    outputs: OutputsSection = OutputsSection()
    patches_per_minute: float | None = Field(
        default=120_000, gt=0, description="null: as fast as the model works."
    )
    burst_patches: int = Field(
        default=20_000, ge=1, description="At once, after a rest."
    )
    unique_patches: int | None = Field(
        default=None, ge=1, description="Different ones; null: the budget bounds them."
    )
    coverage_map: ConfigPath | None = Field(
        default=None, description="Made beside the weights; null: nothing is measured."
    )
    coverage_limit: float | None = Field(
        default=None, gt=0, le=1, description="Of the map; null: it is only shown."
    )


class TeacherLimits(Section):
    """Bounds on what a caller can make the teacher hold or do."""

    max_patches_per_request: int = Field(default=256, ge=1, le=4096)
    max_batch_patches: int = Field(default=256, ge=1, le=4096)
    max_queued_requests: int = Field(default=256, ge=1)
    max_queued_requests_per_site: int = Field(default=32, ge=1)
    max_queued_bytes: int = Field(default=2**30, ge=2**20)
    max_queued_bytes_per_site: int = Field(default=2**28, ge=2**20)


class MomentumSection(Section):
    """Copies of the teacher that follow a site's student.

    This is close to handing out the weights: a site that chooses what it syncs can
    read them out of the answers.
    """

    enabled: bool = Field(default=False, description="Off unless the owner says so.")
    lowest_decay: float = Field(
        default=0.99,
        ge=0,
        le=1,
        description="Of one step; a site says how many: this alone bounds nothing.",
    )
    most_distance: float = Field(
        default=10,
        gt=0,
        description="Of a synced mean from the teacher's weights, over their norm.",
    )
    syncs_per_minute: float = Field(
        default=120, gt=0, le=60_000, description="Of one site; opening counts as one."
    )
    sessions_per_site: int = Field(
        default=2,
        ge=1,
        le=1000,
        description="Open at once; one that is unused for a minute makes way.",
    )
    sessions: int = Field(default=8, ge=1, le=1000, description="Open at once, of all.")
    max_bytes: int = Field(
        default=2**33, ge=1, description="Of all; a session counts as two models."
    )
    idle_seconds: float = Field(
        default=900, gt=0, description="Unused for so long, a session ends."
    )
    age_seconds: float = Field(
        default=86_400, gt=0, description="After which any session ends."
    )
