"""Why the edge passes a call on to nobody."""

from typing import Final, Literal

from moma_core.errors import (
    CATALOGUE,
    FederationError,
    MalformedRequestError,
    NotAuthorizedError,
    OversizedError,
    ReplayError,
    RevokedError,
    TeacherBusyError,
)

Reason = Literal[
    "busy",
    "connection",
    "early",
    "malformed",
    "message",
    "node",
    "object",
    "path",
    "replay",
    "signature",
    "size",
    "slow",
    "stranger",
    "withdrawn",
]

_STATUS: Final[dict[Reason, int]] = {
    # a node tries these again
    "busy": CATALOGUE[TeacherBusyError].http_status,
    "early": 503,
    "replay": CATALOGUE[ReplayError].http_status,
    # a node's process ends on these, and its session starts it again in seconds
    "connection": 401,
    "node": 401,
    "signature": 401,
    "stranger": CATALOGUE[NotAuthorizedError].http_status,
    "withdrawn": CATALOGUE[RevokedError].http_status,
    # a node gives up what it holds and asks for messages again
    "message": 403,
    "object": 403,
    "malformed": CATALOGUE[MalformedRequestError].http_status,
    "path": 404,
    "size": CATALOGUE[OversizedError].http_status,
    "slow": 408,
}


class EdgeRefusedError(FederationError):
    """A call ends here.

    Args:
        reason: Why, as the metric names it.
        site: Site of the caller, once it is known who calls.
    """

    def __init__(self, reason: Reason, site: str | None = None) -> None:
        super().__init__(f"a call was refused: {reason}")
        self.reason = reason
        self.site = site

    @property
    def status(self) -> int:
        """The HTTP status for the caller; chosen for what a node does then."""
        return _STATUS[self.reason]
