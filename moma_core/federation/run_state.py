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


class OwnState(Section):
    """What became of a round at the one site that is told."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    became: Literal["refused", "failed"]
    may_return: bool = Field(
        default=True,
        description="Whether it is asked again in this round, when it connects anew.",
    )


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
    own: OwnState | None = Field(
        default=None,
        description="What became of this round at the site that is told, and at no "
        "other; null: nothing, or a coordinator of an earlier release.",
    )
    left_seconds: float | None = Field(
        default=None, ge=0, le=1e9, description="Until the round ends at the latest."
    )
    local_epochs: int | None = Field(
        default=None, ge=0, le=10_000, description="Of a round, as the plan has it."
    )

    def is_like(self, other: "RunState | None") -> bool:
        """Whether nothing has changed but the time."""
        times = {
            "waited_seconds": self.waited_seconds,
            "left_seconds": self.left_seconds,
        }
        return other is not None and self == other.model_copy(update=times)

    def sentence(self, now: datetime) -> str:
        """Returns what is waited for.

        Args:
            now: The present, in the time zone of whom is told.
        """
        since = _moment(now, -self.waited_seconds)
        missing = max(0, self.wanted - self.here)
        counts = f"{self.here} of {self.wanted} sites"
        waiting = f"waiting for {missing} (since {since})"
        if not missing:
            waiting = f"all are here (since {since})"
        if self.phase == "gathering":
            return f"{counts}, {waiting}"
        if self.phase == "round":
            return (
                f"round {self.round} of {self.rounds}: {counts} are done, {waiting}"
                f"{self._ending(now)}"
            )
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

    def _ending(self, now: datetime) -> str:
        """Returns until when a round waits, and what this site has to do with it."""
        left = self.left_seconds
        end = "" if left is None else f", until {_moment(now, left)} at the latest"
        if self.own is None:
            return end
        text = f"{end}; this site {self.own.became} the round, its own log says why"
        if not self.own.may_return:
            return f"{text}: it is not asked again in this round"
        return (
            f"{text}: mended, it is asked again when it connects anew, as by a start; "
            f"up to three times a round"
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


def _moment(now: datetime, seconds: float) -> str:
    """Returns the time in so many seconds, with its date where that is not today.

    The zone stands with it: parties of one run may be in several.
    """
    at = datetime.fromtimestamp(now.timestamp() + seconds, now.tzinfo)
    return f"{at:%H:%M %Z}" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M %Z}"
