"""What a run is asked to do, and the order file that carries it to the ServerApp."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from moma_core.config import Section
from moma_core.federation.aggregation import FEWEST_SITES, Aggregation
from moma_core.federation.masked_sum import FEWEST_MASKED
from moma_core.federation.messages import RUN_PATTERN
from moma_core.federation.task import Masking, Mode


class FederationPlan(Section):
    """Rounds of a run; stands in the coordinator's config."""

    mode: Mode = Field(
        "independent", description="`fedavg` averages the students' weights."
    )
    rounds: int = Field(ge=1, le=100_000, description="Rounds of the run.")
    local_epochs: int = Field(1, ge=1, le=10_000, description="Epochs a round.")
    local_steps: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Optimiser steps a round, at least: a site whose patches give "
        "fewer takes more epochs, within its own limits; 0: as local_epochs says.",
    )
    quorum: int = Field(1, ge=1, description="Sites that a round needs.")
    deadline_seconds: float = Field(
        3600, gt=0, le=7 * 86_400, description="A round ends here at the latest."
    )
    grace_seconds: float = Field(
        120,
        ge=0,
        le=86_400,
        description="A round with its quorum waits so long for sites not connected.",
    )
    close_seconds: float = Field(
        600, gt=0, le=86_400, description="The closing task ends here at the latest."
    )
    poll_seconds: float = Field(
        1.0, ge=0.02, le=60, description="Time between two looks for reports."
    )
    retries: int = Field(
        2, ge=0, le=100, description="Further tries of a round without its quorum."
    )
    asks: int = Field(
        5,
        ge=1,
        le=100,
        description=(
            "How often a try of a round asks one site, at most; once more each of "
            "three times that it connects anew after it refused or failed."
        ),
    )
    aggregation: Aggregation | Literal["secure"] = Field(
        "clipped_mean",
        description=(
            "What `fedavg` makes of the updates. By default none counts or moves more "
            "than the median site's; `mean` weighs by patches, as claimed; `median`, "
            "`trimmed_mean` and `krum` bear hostile sites, of three or more. `secure` "
            "is the mean of masked updates: the coordinator sees no single one."
        ),
    )
    max_update_norm: float = Field(
        100.0,
        gt=0,
        le=1e9,
        description="In `secure`, L2 norm to which each site clips its own movement.",
    )
    sum_seconds: float = Field(
        600,
        gt=0,
        le=86_400,
        description="In `secure`, time for the keys of a try, and for its updates.",
    )
    max_patches: int = Field(
        1_000_000, ge=1, description="No site weighs more than this in a `mean`."
    )
    max_weights_bytes: int = Field(
        1 << 30, ge=1 << 10, description="Largest weights of one student."
    )

    @model_validator(mode="after")
    def _quorum_suffices(self) -> Self:
        rule = self.aggregation
        fewest = FEWEST_MASKED if rule == "secure" else FEWEST_SITES[rule]
        if self.mode == "fedavg" and self.quorum < fewest:
            raise ValueError(
                f"aggregation {rule} needs {fewest} sites, to "
                f"{'hide one' if rule == 'secure' else 'tell who is right'}: "
                f"set quorum to {fewest} at least, it is {self.quorum}"
            )
        return self

    @property
    def masking(self) -> Masking | None:
        """What tasks say of masks; None where the rounds have none."""
        if self.mode != "fedavg" or self.aggregation != "secure":
            return None
        return Masking(max_update_norm=self.max_update_norm)

    @property
    def report_weights_bytes(self) -> int:
        """How long the weights in a report may be; 0 where none are asked for."""
        return self.max_weights_bytes if self.mode == "fedavg" else 0


class RunOrder(Section):
    """A plan, and where its run stands; written for the ServerApp's process."""

    plan: FederationPlan
    run: str = Field(pattern=RUN_PATTERN)
    first_round: int = Field(ge=1)
    nodes: Path = Field(description="JSON: site -> node; read again when needed.")
    records: Path
    weights: Path = Field(description="Folder of the global student, by round.")
    closing: list[str] = Field(
        default_factory=list,
        description="Only these are asked, and only to close a run that is over.",
    )
