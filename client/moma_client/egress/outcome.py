"""What came of one student's round, before egress decides what is told."""

from collections.abc import Mapping
from dataclasses import dataclass

from moma_core.federation.disclosure import Cohort
from moma_core.federation.task import Weights


@dataclass(frozen=True, slots=True, eq=False)
class StudentOutcome:
    """What a student's round gave; nothing of it has passed egress yet.

    Args:
        figures: On the validation split, and at the end on the unseen one.
        patches: How many patches it trains on.
        weights: The student's, by name.
        model: Digest of its architecture and class names.
        cohorts: On whom the figures were measured, by split.
    """

    figures: dict[str, float]
    patches: int
    weights: Weights
    model: str
    cohorts: Mapping[str, Cohort]
