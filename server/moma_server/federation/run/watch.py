"""What a run waits for: made each second, logged when it changes, shown in `status`."""

import logging
import time
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path

from pydantic import Field, ValidationError

from moma_core.config import Section
from moma_core.federation.run_state import OwnState, RunState
from moma_core.runtime.files import write_private
from moma_server.config.federation_plan import FederationPlan
from moma_server.federation.run.records import Outcome

_logger = logging.getLogger(__name__)

_SAY_AGAIN_SECONDS = 600.0


class RoundProgress(Section):
    """How many sites are done with the round under way; the run's process writes it."""

    run: str
    kind: str
    round: int = Field(ge=0)
    done: int = Field(ge=0)
    asked: int = Field(ge=0)
    own: dict[str, OwnState] = Field(
        default_factory=dict, description="Site: what it alone is told of the round."
    )
    ends_at: float | None = Field(
        None, description="When the round ends at the latest, in seconds since 1970."
    )

    def keep(self, records: Path) -> None:
        """Writes it beside a run's records."""
        write_private(_file(records), self.model_dump_json().encode())

    @classmethod
    def read(cls, records: Path, run: str) -> "RoundProgress | None":
        """Returns what was kept of a run; it is a help, so a damaged one is none."""
        try:
            found = cls.model_validate_json(_file(records).read_bytes())
        except (OSError, ValidationError):
            return None
        return found if found.run == run else None


def _file(records: Path) -> Path:
    return records.with_name("progress.json")


class RunWatch:
    """Says what a run waits for, and since when.

    Args:
        name: Name of the run, as the config has it.
        task_run: Name of the run, as its tasks bear it.
        plan: Plan of the run.
        clock: Returns seconds since 1970.
    """

    def __init__(
        self,
        name: str,
        task_run: str,
        plan: FederationPlan,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._names = {"run": name, "task_run": task_run}
        self._plan, self._clock = plan, clock
        self._state: RunState | None = None
        self._since = self._said_at = 0.0

    def look(
        self,
        *,
        registered: Collection[str],
        online: Collection[str],
        progress: RoundProgress | None,
        outcome: Outcome | None,
    ) -> RunState:
        """Returns how the run stands, and logs what has changed.

        Args:
            registered: Sites of the federation.
            online: Sites that are connected.
            progress: Of the round under way; None: none is.
            outcome: How the run ended; None: it goes on.
        """
        now = self._clock()
        state = self._made(online, progress, outcome, now)
        is_new = not state.is_like(self._state)
        if is_new:
            self._since = now
        state = state.model_copy(update={"waited_seconds": now - self._since})
        self._state = state
        if is_new or now - self._said_at >= _SAY_AGAIN_SECONDS:
            self._said_at = now
            away = sorted(set(registered) - set(online))
            missing = f"; not connected: {', '.join(away)}" if away else ""
            text = state.sentence(datetime.fromtimestamp(now).astimezone())
            _logger.info("%s%s", text, "" if outcome else missing)
        return state

    def _made(
        self,
        online: Collection[str],
        progress: RoundProgress | None,
        outcome: Outcome | None,
        now: float,
    ) -> RunState:
        plan = self._plan
        state = RunState(
            **self._names,
            phase="gathering",
            rounds=plan.rounds,
            local_epochs=plan.local_epochs,
        )
        found: dict[str, object] = {"here": len(online)}
        if outcome is not None:
            found = {"phase": "over" if outcome == "finished" else "stopped"}
        elif len(online) < plan.quorum or progress is None:
            found["wanted"] = max(plan.quorum, len(online))
        else:
            ends_at = progress.ends_at
            found = {
                "phase": "round",
                "round": progress.round,
                "here": progress.done,
                "wanted": progress.asked,
                "left_seconds": None if ends_at is None else max(0.0, ends_at - now),
            }
        return state.model_copy(update=found)
