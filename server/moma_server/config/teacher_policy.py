"""What a teacher grants and bounds: sections of `server.yaml`."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from moma_core.config import ConfigPath, Section
from moma_core.pki.identity import NAME_PATTERN
from moma_core.policy.outputs import Precision as OutputPrecision

_SiteName = Annotated[str, Field(pattern=NAME_PATTERN)]
_Patches = Annotated[int, Field(ge=0)]


class BudgetSection(Section):
    """What each site may ask over the life of the agreement."""

    default_patches: int = Field(
        default=0, ge=0, description="Patches of a site that `sites` does not name."
    )
    sites: dict[_SiteName, _Patches] = Field(
        default_factory=dict, description="Name of a site: patches over its whole life."
    )


class OutputsSection(Section):
    """What of the model's output is disclosed to a site."""

    embedding: bool = Field(
        default=True, description="Whether embeddings are disclosed."
    )
    logits: bool = Field(default=True, description="Whether logits are disclosed.")
    top_k: int | None = Field(
        default=None,
        ge=1,
        description="Only so many logits of a patch; 1: the class alone; null: all.",
    )
    precision: OutputPrecision = Field(
        default="float32", description="Format to which the outputs are rounded."
    )


class PolicySection(Section):
    """What each site may ask, beside its budget."""

    outputs: OutputsSection = OutputsSection()
    patches_per_minute: float | None = Field(
        default=120_000,
        gt=0,
        description="Rate of one site; null: as fast as the model works.",
    )
    burst_patches: int = Field(
        default=20_000,
        ge=1,
        description="Patches that a site may ask at once after a pause.",
    )
    unique_patches: int | None = Field(
        default=None,
        ge=1,
        description="Different patches of a site; null: the budget bounds them.",
    )
    coverage_map: ConfigPath | None = Field(
        default=None,
        description="coverage.safetensors of `teacher train`; null: no coverage.",
    )
    coverage_limit: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the map a site may touch; null: only measured.",
    )


class TeacherLimits(Section):
    """Bounds on what a caller can make the teacher hold or do."""

    max_patches_per_request: int = Field(
        default=256, ge=1, le=4096, description="Patches of one request."
    )
    max_batch_patches: int = Field(
        default=256, ge=1, le=4096, description="Patches of one pass of the model."
    )
    max_queued_requests: int = Field(
        default=256, ge=1, description="Requests that wait for the model, of all sites."
    )
    max_queued_requests_per_site: int = Field(
        default=32, ge=1, description="Requests that wait for the model, of one site."
    )
    max_queued_bytes: int = Field(
        default=2**30, ge=2**20, description="Pixels that wait, of all sites."
    )
    max_queued_bytes_per_site: int = Field(
        default=2**28, ge=2**20, description="Pixels that wait, of one site."
    )

    @model_validator(mode="after")
    def _parts_fit_the_whole(self) -> Self:
        for part, whole in (
            ("max_patches_per_request", "max_batch_patches"),
            ("max_queued_requests_per_site", "max_queued_requests"),
            ("max_queued_bytes_per_site", "max_queued_bytes"),
        ):
            if getattr(self, part) > getattr(self, whole):
                raise ValueError(
                    f"{part} is {getattr(self, part)}, more than {whole}, "
                    f"{getattr(self, whole)}: lower the one, or raise the other"
                )
        return self


class MomentumSection(Section):
    """Copies of the teacher that follow a site's student.

    This is close to handing out the weights: a site that chooses what it syncs can
    read them out of the answers.
    """

    enabled: bool = Field(
        default=False, description="true is close to handing out the weights."
    )
    lowest_decay: float = Field(
        default=0.99,
        ge=0,
        le=1,
        description="Lowest EMA decay of one step; a site says how many steps it made, "
        "so this alone bounds nothing.",
    )
    most_distance: float = Field(
        default=10,
        gt=0,
        description="Distance of the synced mean from the teacher's weights, over the "
        "norm of these.",
    )
    syncs_per_minute: float = Field(
        default=120,
        gt=0,
        le=60_000,
        description="Syncs of one site; to open a session counts as one.",
    )
    sessions_per_site: int = Field(
        default=2,
        ge=1,
        le=1000,
        description="Open at once of one site; one unused for a minute makes way.",
    )
    sessions: int = Field(
        default=8, ge=1, le=1000, description="Open at once of all sites."
    )
    max_bytes: int = Field(
        default=2**33,
        ge=1,
        description="Memory of all sessions; each counts as two models.",
    )
    idle_seconds: float = Field(
        default=900, gt=0, description="A session unused for so long ends."
    )
    age_seconds: float = Field(
        default=86_400, gt=0, description="A session ends after so long in any case."
    )
