"""What other processes may know of a coordinator's run, from its folder."""

import re
import secrets
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from moma_core.config import Section
from moma_core.errors import CheckpointError, ConfigError
from moma_core.federation.messages import RUN_PATTERN
from moma_core.federation.run_state import RunState
from moma_server.config.federation_plan import FederationPlan
from moma_server.federation.run.records import (
    RecordFile,
    RoundRecord,
    ending,
    next_round,
)

STATE_FILE = "state.json"
_LONGEST_NAME = 35  # a run's id has 48 characters
# the sites train by these from the first round to the last, and keep to them
_FIXED = ("mode", "rounds", "local_epochs", "local_steps")


class StateFile(Section):
    """The state of a run and its sites, as the coordinator last wrote it."""

    run: str = Field(pattern=RUN_PATTERN)
    plan: FederationPlan
    registered: list[str] = Field(default_factory=list)
    online: list[str] = Field(default_factory=list)
    waiting: RunState | None = Field(None, description="As sites are told.")
    updated_at: float = Field(0.0, description="Seconds since 1970.")


def read_status(folder: Path, zone: tzinfo | None = None) -> dict[str, Any]:
    """Returns the state of a coordinator and its run, from the files in its folder.

    Args:
        folder: Of the run.
        zone: Time zone of what is said; None: this machine's.

    Raises:
        CheckpointError: There is no coordinator's state, or it is damaged.
    """
    state = load_state(folder)
    if state is None:
        raise CheckpointError(f"{folder} holds no coordinator's state")
    records = RecordFile(folder / "records.jsonl").read()
    rounds = [r for r in records if r.run == state.run and r.kind != "run"]
    end = ended(state, records)
    return {
        "run": state.run,
        "mode": state.plan.mode,
        "rounds": state.plan.rounds,
        "completed": next_round(records, state.run) - 1,
        "finished": end is not None,
        "outcome": end.outcome if end is not None else None,
        "registered": state.registered,
        "online": state.online,
        "updated_at": state.updated_at,
        "waiting": _waiting(state, zone),
        "history": [
            {**record.model_dump(), "took_part": record.took_part} for record in rounds
        ],
    }


def ended(state: StateFile, records: list[RoundRecord]) -> RoundRecord | None:
    """Returns the record that ended the state's run, or None while it goes on.

    A run that has stopped goes on by a restart, and its record stays.
    """
    end = ending(records, state.run)
    if end is None or end.outcome == "finished" or state.waiting is None:
        return end
    return end if state.waiting.phase == "stopped" else None


def _waiting(state: StateFile, zone: tzinfo | None) -> str | None:
    """Returns what the run waited for when its coordinator last looked."""
    if state.waiting is None:
        return None
    looked_at = datetime.fromtimestamp(state.updated_at, UTC).astimezone(zone)
    return state.waiting.sentence(looked_at)


def resumed(folder: Path, plan: FederationPlan) -> StateFile:
    """Returns the state of the folder's run under `plan`, or of a new run.

    Raises:
        CheckpointError: The folder's state is damaged.
        ConfigError: The folder holds a run of another mode or length.
    """
    state = load_state(folder)
    if state is None:
        return StateFile(run=_new_run(folder.name), plan=plan)
    for name in _FIXED:
        known, wanted = getattr(state.plan, name), getattr(plan, name)
        if known != wanted:
            raise ConfigError(
                f"{folder} holds a run with plan.{name} {known}, not {wanted}: another "
                "plan takes another coordinator.run, for example run-2"
            )
    return state.model_copy(update={"plan": plan})


def _new_run(name: str) -> str:
    """Returns what no other run is called: the config's name, and some chance."""
    plain = re.sub(r"[^a-z0-9-]", "-", name.lower())[:_LONGEST_NAME].strip("-")
    return f"{plain or 'run'}-{secrets.token_hex(6)}"


def load_state(folder: Path) -> StateFile | None:
    """Returns what a coordinator last wrote in its folder; none in a new one.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = folder / STATE_FILE
    try:
        return StateFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path} is damaged") from error
