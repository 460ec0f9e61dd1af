"""A query that is not answered, as the log has it."""

from dataclasses import dataclass

from moma_core.audit.entry import NOTHING, QueryEntry
from moma_core.teacher.query import PatchQuery


@dataclass(frozen=True, slots=True)
class Denial:
    """A query that is not answered.

    Args:
        site: Whose key signed it.
        reason: As the metric names it.
        request_id: Under which it was signed.
        query: What was asked; None where it could not be read.
    """

    site: str
    reason: str
    request_id: bytes
    query: PatchQuery | None = None

    def content(self) -> bytes:
        """Returns the SHA-256 to which its entry commits."""
        return NOTHING if self.query is None else self.query.digest()

    def entry(self, teacher: str) -> QueryEntry:
        """Returns its entry.

        Args:
            teacher: Digest of its weights.
        """
        return QueryEntry(
            site=self.site,
            teacher=teacher,
            request=self.request_id.hex(),
            patches=0 if self.query is None else len(self.query),
            charged=0,
            outputs="",
            outcome="denied",
            reason=self.reason,
        )
