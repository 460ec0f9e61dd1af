"""A round for one site: the coordinator's task, and the site's report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from moma_core.audit.checkpoint import Checkpoint

Kind = Literal["train", "close"]
Mode = Literal["independent", "fedavg"]
Weights = Mapping[str, NDArray[Any]]

METRIC_PATTERN = r"^[a-z][a-z0-9_]{0,47}$"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundTask:
    """One round for one site; `run`, `kind` and `round` say which, for ever.

    A task may come more than once, after a restart on either side: the same key means
    the same work, and a site that has finished it replies at once.

    Args:
        kind: `train` wants local epochs; `close` ends the run.
        run: Name of the run; it outlives restarts of the coordinator.
        round: From 1 to `rounds`; the closing task has the last round's number.
        rounds: How many rounds the run has.
        local_epochs: Passes over the site's patches in each round of the run; a closing
            task names them too and wants none.
        local_steps: Optimiser steps in each round, at least; a site whose patches give
            fewer takes more epochs. 0: as many as the epochs give.
        mode: `fedavg` wants weights back, `independent` does not.
        weights: The global student, in `fedavg` after the first round.
        checkpoints: Of teachers' logs, as sites say that they were shown; a site
            believes those that its teacher signed.
    """

    kind: Kind
    run: str
    round: int
    rounds: int
    local_epochs: int
    mode: Mode
    local_steps: int = 0
    weights: Weights | None = None
    checkpoints: tuple[Checkpoint, ...] = ()

    @property
    def key(self) -> str:
        """Names the work, also as a file name."""
        return f"{self.run}-{self.round:06d}-{self.kind}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundReport:
    """A site's answer to a task; everything in it has passed the site's egress.

    Args:
        patches: How many patches the site trained on: its weight in the average.
        metrics: Figures that the site's policy lets out.
        weights: The site's student, in `fedavg`.
        refusal: One fixed sentence when the site's policy refuses the task.
        model: Digest of architecture and class names; only weights of one model are
            averaged, since shapes alone say nothing of the order of the classes.
        checkpoint: The newest of its teacher's log that the site was shown.
    """

    patches: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    weights: Weights | None = None
    refusal: str | None = None
    model: str = ""
    checkpoint: Checkpoint | None = None
