"""What a student's round gave, before egress decides what is disclosed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from moma_core.evaluation.figures import Evaluation
from moma_core.federation.disclosure import Cohort
from moma_core.federation.task import Weights


@dataclass(frozen=True, slots=True, eq=False)
class StudentOutcome:
    """What a student's round gave; nothing of it has passed egress yet.

    Args:
        figures: Figures on the validation split, and at the end on the unseen one.
        patches: Number of patches that the student trains on.
        weights: The student's weights, by name.
        model: Digest of the student's architecture and class names.
        cohorts: The people on whom the figures were measured, by split.
        evaluations: The figures once more, by split, with n, intervals and reasons,
            for the site's own record.
        start: Weights from which it trained, where the federation had none to send and
            its movement matters.
        began_from: Digest of the federation's student that it took over last; empty:
            it took over none.
    """

    figures: dict[str, float]
    patches: int
    weights: Weights
    model: str
    cohorts: Mapping[str, Cohort]
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    start: Weights | None = None
    began_from: str = ""
