"""Why the edge passes a call on to nobody."""

from typing import Final, Literal, NamedTuple

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


class _ReasonDetail(NamedTuple):
    """What a reason means: to the caller's node, and to the coordinator's operator."""

    status: int
    meaning: str


_REASONS: Final[dict[Reason, _ReasonDetail]] = {
    # a node tries these again
    "busy": _ReasonDetail(
        CATALOGUE[TeacherBusyError].http_status,
        "more calls at once than a site may make",
    ),
    "early": _ReasonDetail(503, "the sites were not read yet; it tries again"),
    "replay": _ReasonDetail(
        CATALOGUE[ReplayError].http_status, "it came twice; it tries again"
    ),
    # a node's process ends on these, and its session starts it again in seconds
    "connection": _ReasonDetail(401, "the connection is another site's"),
    "node": _ReasonDetail(
        401,
        "it names a node that is not its own, as when the coordinator was started "
        "again; it connects anew",
    ),
    "signature": _ReasonDetail(
        401, "its signature is wrong or old: compare both machines' clocks"
    ),
    "stranger": _ReasonDetail(
        CATALOGUE[NotAuthorizedError].http_status, "its node key is of no site"
    ),
    "withdrawn": _ReasonDetail(
        CATALOGUE[RevokedError].http_status, "the site was revoked or removed"
    ),
    # a node gives up what it holds and asks for messages again
    "message": _ReasonDetail(403, "it was sent no such message; it asks anew"),
    "object": _ReasonDetail(403, "it was sent no such object; it asks anew"),
    "malformed": _ReasonDetail(
        CATALOGUE[MalformedRequestError].http_status, "it is no such call"
    ),
    "path": _ReasonDetail(404, "there is no such call"),
    "size": _ReasonDetail(
        CATALOGUE[OversizedError].http_status, "it is longer than plan and limits allow"
    ),
    "slow": _ReasonDetail(408, "its body did not come in time"),
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
        return _REASONS[self.reason].meaning

    @property
    def status(self) -> int:
        """The HTTP status for the caller; chosen for what a node does then."""
        return _REASONS[self.reason].status
