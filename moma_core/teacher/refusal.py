"""Why a teacher gives no response, in a form in which a site knows who says it.

A refusal is sealed and signed like the response in whose place it stands: a site that
pays anew, or does without a check, does so on the teacher's word and on nobody else's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from moma_core.errors import (
    CATALOGUE,
    INTERNAL,
    MomaError,
    RefusalReason,
    TeacherBusyError,
    TeacherUnavailableError,
    meaning_of,
)

_ERRORS: Mapping[RefusalReason, type[MomaError]] = {
    meaning.refusal: kind
    for kind, meaning in CATALOGUE.items()
    if meaning.refusal != "internal"
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What stands in the place of a response.

    Args:
        reason: Why the teacher refuses.
        sentence: For the site's operator; safe to show.
        retry_after_seconds: When a repetition is welcome; 0 unless the reason is
            `busy`.
    """

    reason: RefusalReason
    sentence: str
    retry_after_seconds: float = 0.0

    @classmethod
    def of(cls, error: BaseException) -> "Refusal":
        """Returns the refusal for an error; a foreign one is only named as such."""
        reason = meaning_of(error).refusal
        if reason == "internal":
            return cls(reason, INTERNAL.sentence)
        seconds = 0.0
        if isinstance(error, TeacherBusyError):
            seconds = error.retry_after_seconds
        return cls(reason, str(error), seconds)

    def error(self) -> MomaError:
        """Returns the error that a site raises over the refusal."""
        sentence = f"the teacher says: {self.sentence}"
        if self.reason == "busy":
            return TeacherBusyError(sentence, self.retry_after_seconds)
        return _ERRORS.get(self.reason, TeacherUnavailableError)(sentence)
