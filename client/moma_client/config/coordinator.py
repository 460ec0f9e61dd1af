"""The section of the config that says what a site lets its coordinator request."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from moma_core.config import Section
from moma_core.end_to_end.signatures import FINGERPRINT_PATTERN
from moma_core.federation.masked_sum import FEWEST_MASKED
from moma_core.federation.task import MOST_MASKED
from moma_core.network.address import Address
from moma_core.pki.crl_client import RevocationsSection
from moma_core.pki.identity import NAME_PATTERN


class MaskedWeightsSection(Section):
    """With whom this site masks its weights, so that the coordinator sees sums alone.

    Each site of a federation whose plan says `aggregation: secure` has it.
    """

    partners: dict[
        Annotated[str, Field(pattern=NAME_PATTERN)],
        Annotated[str, Field(pattern=FINGERPRINT_PATTERN)],
    ] = Field(
        min_length=FEWEST_MASKED - 1,
        max_length=MOST_MASKED - 1,
        description="Fingerprint of each other site, by its name; exchanged by hand.",
    )
    smallest_group: int = Field(
        default=FEWEST_MASKED,
        ge=FEWEST_MASKED,
        le=MOST_MASKED,
        description="Sites of a sum at least, this one included; of two, each could "
        "subtract itself.",
    )
    max_update_norm: float = Field(
        default=100.0,
        gt=0,
        le=1e9,
        description="A round that lets a student move further, as an L2 norm, is "
        "refused.",
    )

    @model_validator(mode="after")
    def _partners_are_several(self) -> Self:
        if len(set(self.partners.values())) < len(self.partners):
            raise ValueError("partners: two have one key, and could be one site")
        if len(self.partners) + 1 < self.smallest_group:
            raise ValueError(
                f"smallest_group {self.smallest_group} is more than this site and its "
                f"{len(self.partners)} partners"
            )
        return self


class SiteCoordinatorSection(RevocationsSection):
    """Where the rounds come from, and what this site lets them ask."""

    address: Address = Field(description="host:port of the coordinator's rounds.")
    enrolment: Address | None = Field(
        default=None,
        description="host:port for enrolment, renewals and revocations; null: by hand.",
    )
    max_epochs_per_round: int = Field(
        default=50, ge=1, description="A round that asks for more is refused."
    )
    max_epochs_per_run: int = Field(
        default=500, ge=1, description="A run that asks for more is refused."
    )
    max_runs: int = Field(
        default=20,
        ge=1,
        description="Runs in this state_dir at most; each asks the teacher anew.",
    )
    max_rounds_per_run: int = Field(
        default=500, ge=1, description="A run that asks for more is refused."
    )
    max_evaluations_per_run: int = Field(
        default=1000,
        ge=1,
        description="Reports with figures at most; repeated rounds count too.",
    )
    give_up_hours: float = Field(
        default=72,
        gt=0,
        le=8760,
        description="Without a word of the coordinator for so long, the site ends.",
    )
    weights_may_leave: bool = Field(
        default=False,
        description="true: in mode fedavg the student's weights are sent each round.",
    )
    masked_weights: MaskedWeightsSection | None = Field(
        default=None,
        description="Lets weights leave masked, for a sum; null: they do not.",
    )

    @model_validator(mode="after")
    def _weights_leave_in_one_form(self) -> Self:
        if self.weights_may_leave and self.masked_weights is not None:
            raise ValueError(
                "weights_may_leave: true lets them leave without masks as well: set it "
                "to false, or drop masked_weights"
            )
        return self
