"""The site's egress policy as its config file has it."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from moma_core.config import Section
from moma_core.data.sources.factory import DataSection
from moma_core.federation.disclosure import (
    COUNT_STEP,
    FigurePolicy,
    UnknownPatients,
    figure_name,
)
from moma_core.federation.task import METRIC_PATTERN

_PUBLIC_SETS = frozenset({"embedded", "medmnist", "preset"})


class EgressSection(Section):
    """Which figures of a round may be disclosed to the coordinator."""

    metrics: tuple[Annotated[str, Field(pattern=METRIC_PATTERN)], ...] = Field(
        default=(
            "validation_accuracy",
            "validation_macro_f1",
            "unseen_accuracy",
            "unseen_macro_f1",
        ),
        description="Keys of the figures that may leave; a baseline's are prefixed, "
        "for example ce_.",
    )
    decimals: int = Field(
        default=3, ge=1, le=6, description="To so many decimals figures are rounded."
    )
    min_patients: int = Field(
        default=10, ge=1, description="With fewer, no figure on them is disclosed."
    )
    min_class_patients: int = Field(
        default=5, ge=1, description="With fewer, no figure on that class is disclosed."
    )
    unknown_patients: UnknownPatients | None = Field(
        default=None,
        description="Patches that name neither patient nor slide count as one patient, "
        "or as one each; null: each in embedded, medmnist and preset, else one.",
    )
    max_patches_told: int = Field(
        default=1_000_000,
        ge=COUNT_STEP,
        description="A larger count of patches is reported as this one.",
    )

    @model_validator(mode="after")
    def _figures_are_known(self) -> Self:
        unknown = [key for key in self.metrics if figure_name(key) is None]
        if unknown:
            raise ValueError(
                f"metrics: {unknown[0]!r} is no figure, write "
                f"[<baseline>_]<validation|unseen>_<accuracy, macro_f1, kappa, auroc, "
                f"ece or recall_<class>>"
            )
        return self

    def figure_policy(self) -> FigurePolicy:
        """Returns what figures must pass."""
        return FigurePolicy(
            allowed=frozenset(self.metrics),
            decimals=self.decimals,
            min_patients=self.min_patients,
            min_class_patients=self.min_class_patients,
        )

    def counted_as(self, data: DataSection) -> UnknownPatients:
        """Returns how patches count of which nobody knows the patient.

        Public sets name none, and tell of nobody that a site must protect.
        """
        public: UnknownPatients = "each" if data.kind in _PUBLIC_SETS else "one"
        return self.unknown_patients or public
