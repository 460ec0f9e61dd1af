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


_MEANING: Final[dict[Reason, str]] = {
    "busy": "more calls at once than a site may make",
    "connection": "the connection is another site's",
    "early": "the sites were not read yet; it tries again",
    "malformed": "it is no such call",
    "message": "it was sent no such message; it asks anew",
    "node": "it names a node that is not its own, as when the coordinator was started "
    "again; it connects anew",
    "object": "it was sent no such object; it asks anew",
    "path": "there is no such call",
    "replay": "it came twice; it tries again",
    "signature": "its signature is wrong or old: compare both machines' clocks",
    "size": "it is longer than plan and limits allow",
    "slow": "its body did not come in time",
    "stranger": "its node key is of no site",
    "withdrawn": "the site was revoked or removed",
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
    def meaning(self) -> str:
        """What the reason means, for the coordinator's operator."""
        return _MEANING[self.reason]

    @property
    def status(self) -> int:
        """The HTTP status for the caller; chosen for what a node does then."""
        return _STATUS[self.reason]
