"""What a site may know of its run while it waits: counts, and no other site's name."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError

from moma_core.config import Section
from moma_core.errors import FederationError

RunPhase = Literal["gathering", "round", "closing", "stopped", "over"]

_Count = Annotated[int, Field(ge=0, le=1_000_000)]

LARGEST_BYTES = 4096
PATH = "/v1/moma/run"
"""Where the coordinator answers a site that asks, beside the calls of Flower."""


class RunState(Section):
    """How a run stands, as its coordinator tells each member that asks.

    A later release may say more: what is not known here is left unread.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    run: str = Field(
        pattern=r"^[A-Za-z0-9._-]{1,64}$", description="As `coordinator.run` calls it."
    )
    task_run: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="As the run's tasks call it; a coordinator of an earlier release "
        "does not say it.",
    )
    phase: RunPhase = Field(
        description="gathering: too few sites are connected; round: one is under way; "
        "closing: this site is owed the last task; stopped: a round had too few sites; "
        "over: it is finished."
    )
    round: _Count = Field(default=0, description="Round that is under way.")
    rounds: _Count = Field(default=0, description="Rounds of the run.")
    here: _Count = Field(default=0, description="Sites connected, or done.")
    wanted: _Count = Field(default=0, description="Sites that are waited for in all.")
    waited_seconds: float = Field(
        default=0, ge=0, le=1e9, description="Since when nothing has changed."
    )

    def is_like(self, other: "RunState | None") -> bool:
        """Whether nothing has changed but the time."""
        return other is not None and self == other.model_copy(
            update={"waited_seconds": self.waited_seconds}
        )

    def sentence(self, now: datetime) -> str:
        """Returns what is waited for.

        Args:
            now: The present, in the time zone of whom is told.
        """
        since = now.timestamp() - self.waited_seconds
        at = datetime.fromtimestamp(since, now.tzinfo)
        today = "%H:%M" if at.date() == now.date() else "%Y-%m-%d %H:%M"
        missing = max(0, self.wanted - self.here)
        counts = f"{self.here} of {self.wanted} sites"
        waiting = f"waiting for {missing} (since {at:{today}})"
        if not missing:
            waiting = f"all are here (since {at:{today}})"
        if self.phase == "gathering":
            return f"{counts}, {waiting}"
        if self.phase == "round":
            return f"round {self.round} of {self.rounds}: {counts} are done, {waiting}"
        if self.phase == "closing":
            return f"{self.run} is over: its last task is on the way"
        if self.phase == "stopped":
            return (
                f"{self.run} has stopped, a round had too few sites: the coordinator's "
                f"owner goes on with it by a restart"
            )
        return (
            f"{self.run} is over: the coordinator's owner starts another by "
            f"`coordinator.run`"
        )

    def to_json(self) -> bytes:
        """Returns it for a member that asks."""
        return self.model_dump_json().encode()

    @classmethod
    def from_json(cls, content: bytes) -> "RunState":
        """Reads what `to_json` wrote.

        Raises:
            FederationError: It is none.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError:
            message = "what the coordinator says of its run cannot be read"
            raise FederationError(message) from None
