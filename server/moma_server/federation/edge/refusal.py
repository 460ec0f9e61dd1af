"""Why the edge passes a call on to nobody."""

from typing import Final, Literal

from moma_core.errors import FederationError

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
    "busy": 503,
    "early": 503,
    "replay": 503,
    # a node's process ends on these, and its session starts it again in seconds
    "connection": 401,
    "node": 401,
    "signature": 401,
    "stranger": 401,
    "withdrawn": 401,
    # a node gives up what it holds and asks for messages again
    "message": 403,
    "object": 403,
    "malformed": 400,
    "path": 404,
    "size": 413,
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
