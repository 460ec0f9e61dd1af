"""A round for one site: the coordinator's task, and the site's report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from numpy.typing import NDArray
from pydantic import Field

from moma_core.audit.checkpoint import Checkpoint
from moma_core.config import Section
from moma_core.pki.identity import NAME_PATTERN

Kind = Literal["train", "close", "keys", "update"]
Mode = Literal["independent", "fedavg"]
Weights = Mapping[str, NDArray[Any]]

METRIC_PATTERN = r"^[a-z][a-z0-9_]{0,47}$"

MOST_MASKED: Final = 100
"""Sites in one sum: their keys fit a header, and their values 64 bits."""


class RoundKey(Section):
    """A site's public key for one try of a masked sum, under its signature."""

    site: str = Field(pattern=NAME_PATTERN, description="Whose key it is.")
    key: str = Field(pattern=r"^[0-9a-f]{64}$", description="X25519, hex.")
    signature: str = Field(
        pattern=r"^[0-9a-f]{128}$",
        description="Ed25519 over federation, run, round, try, the terms of the "
        "round's training, site and key, hex.",
    )


class Masking(Section):
    """What a task says of a run in which the coordinator gets sums alone."""

    max_update_norm: float = Field(
        gt=0, le=1e9, description="L2 norm to which a site clips its own movement."
    )
    try_id: str = Field(
        "",
        pattern=r"^([0-9a-f]{16})?$",
        description="Name of the try, in tasks for keys and updates.",
    )
    keys: tuple[RoundKey, ...] = Field(
        default=(),
        max_length=MOST_MASKED,
        description="Keys of the whole group, in a task for an update.",
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundTask:
    """One round for one site; `run`, `kind` and `round` say which, for ever.

    A task may come more than once, after a restart on either side: the same key means
    the same work, and a site that has finished it replies at once.

    Args:
        kind: `train` wants local epochs; `close` ends the run. Where weights leave
            masked, `keys` wants a key for one try, and `update` the masked update.
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
        masking: Set in `fedavg` where weights leave masked, and by tasks of their own.
        requested_epochs: Epochs that the coordinator named, where the site has put its
            own number in their place; it does not travel.
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
    masking: Masking | None = None
    requested_epochs: int | None = None

    @property
    def key(self) -> str:
        """Names the work, also as a file name."""
        key = f"{self.run}-{self.round:06d}-{self.kind}"
        try_id = "" if self.masking is None else self.masking.try_id
        return f"{key}-{try_id}" if try_id else key


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundReport:
    """A site's answer to a task; everything in it has passed the site's egress.

    Args:
        patches: How many patches the site trained on: its weight in the average.
        metrics: Figures that the site's policy lets out.
        weights: The site's student, in `fedavg`; masked, in the report on an `update`.
        refusal: One fixed sentence when the site's policy refuses the task.
        model: Digest of architecture and class names; only weights of one model are
            averaged, since shapes alone say nothing of the order of the classes.
        checkpoint: The newest of its teacher's log that the site was shown.
        round_key: In the report on a task for `keys`.
    """

    patches: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    weights: Weights | None = None
    refusal: str | None = None
    model: str = ""
    checkpoint: Checkpoint | None = None
    round_key: RoundKey | None = None
