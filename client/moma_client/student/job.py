"""What one student is asked to do in a round, and what it gives back."""

from dataclasses import dataclass
from pathlib import Path

from moma_client.config.site import SiteConfig
from moma_core.distillation.methods.names import Method, asks_each_step, need_of
from moma_core.distillation.scenario import Scenario
from moma_core.federation.task import RoundTask
from moma_core.teacher.card.card import TeacherCard


@dataclass(frozen=True, slots=True, eq=False)
class StudentJob:
    """What one student does in one round.

    Args:
        config: The site's.
        method: `moma`, or a baseline's name.
        card: The teacher's.
        scenario: Which losses apply.
        folder: Of this student; checkpoint and export lie there.
        run_key: Secret of the run, from which request ids are made.
        task: The round.
        is_verified: Whether the teacher may be asked for what its cache lacks: see
            `OnboardedTeacher`.
    """

    config: SiteConfig
    method: Method
    card: TeacherCard
    scenario: Scenario
    folder: Path
    run_key: bytes
    task: RoundTask
    is_verified: bool

    @property
    def distils(self) -> bool:
        """Whether a teacher answers this student's batches."""
        return asks_each_step(self.method)

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher has any part in this student."""
        return need_of(self.method) != "nothing"
