"""Why a teacher gives no answer, said so that a site knows who says it.

A refusal is sealed and signed like the answer in whose place it stands: a site that
pays anew, or does without a check, does so on the teacher's word and on nobody else's.
"""

from dataclasses import dataclass
from typing import Literal

from moma_core.errors import (
    BudgetSpentError,
    CoverageError,
    MalformedRequestError,
    MomaError,
    NotAuthorizedError,
    OversizedError,
    PatchLimitError,
    PolicyError,
    ReplayError,
    SessionLostError,
    TeacherBusyError,
    TeacherUnavailableError,
    UnknownEntryError,
)

Reason = Literal[
    "malformed",
    "size",
    "session",
    "policy",
    "unique",
    "coverage",
    "budget",
    "replay",
    "busy",
    "time",
    "entry",
    "unavailable",
    "internal",
]

_ERRORS: dict[Reason, type[MomaError]] = {
    "malformed": MalformedRequestError,
    "size": OversizedError,
    "session": SessionLostError,
    "policy": PolicyError,
    "unique": PatchLimitError,
    "coverage": CoverageError,
    "budget": BudgetSpentError,
    "replay": ReplayError,
    "time": NotAuthorizedError,
    "entry": UnknownEntryError,
    "unavailable": TeacherUnavailableError,
}
_REASONS: dict[type[BaseException], Reason] = {
    **{error: reason for reason, error in _ERRORS.items()},
    TeacherBusyError: "busy",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What stands in the place of an answer.

    Args:
        reason: One of few.
        sentence: For the site's operator; safe to show.
        retry_after_seconds: When asking again is welcome; 0 unless it is `busy`.
    """

    reason: Reason
    sentence: str
    retry_after_seconds: float = 0.0

    @classmethod
    def of(cls, error: BaseException) -> "Refusal":
        """Returns how an error is told; of a foreign one, only that there was one."""
        reason = _REASONS.get(type(error))
        if reason is None:
            return cls("internal", "internal error")
        seconds = 0.0
        if isinstance(error, TeacherBusyError):
            seconds = error.retry_after_seconds
        return cls(reason, str(error), seconds)

    def error(self) -> MomaError:
        """Returns what a site raises."""
        sentence = f"the teacher says: {self.sentence}"
        if self.reason == "busy":
            return TeacherBusyError(sentence, self.retry_after_seconds)
        return _ERRORS.get(self.reason, TeacherUnavailableError)(sentence)
