"""How long a student trains in a run: steps decide it, and patches how many epochs.

What an epoch is depends on how many patches a site has; how well a student learns
depends on the optimiser's steps. docs/results.md has what was measured.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from moma_core.federation.disclosure import RoundBounds
from moma_core.federation.task import RoundTask
from moma_core.runtime.finding import Finding

FEWEST_STEPS = 100
"""Of a whole run; with fewer a student has hardly begun to learn."""

_GOOD_STEPS = 200  # of a whole run, as a new coordinator plans it


def steps_a_round(rounds: int) -> int:
    """Returns the steps of a round with which a run of so many rounds trains."""
    return math.ceil(_GOOD_STEPS / rounds)


def with_epochs(
    task: RoundTask, steps_per_epoch: int, bounds: RoundBounds
) -> RoundTask:
    """Returns a task with as many local epochs as its steps need at this site.

    Epochs that the task names stay in any case; what its steps add ends at the site's
    own limits.

    Args:
        task: As the coordinator sent it.
        steps_per_epoch: Steps of one pass over the site's patches.
        bounds: What the site lets its coordinator request.
    """
    needed = math.ceil(task.local_steps / steps_per_epoch)
    most = min(bounds.epochs_per_round, bounds.epochs_per_run // task.rounds)
    epochs = max(task.local_epochs, min(needed, most))
    return replace(task, local_epochs=epochs, requested_epochs=task.local_epochs)


def look_at_steps(steps_per_epoch: int, epochs: int | None) -> Iterator[Finding]:
    """Yields whether a run has the steps that a student needs.

    Args:
        steps_per_epoch: Steps of one pass over the site's patches.
        epochs: Of the whole run; None: not known yet.
    """
    needed = math.ceil(FEWEST_STEPS / steps_per_epoch)
    facts: dict[str, object] = {"steps_per_epoch": steps_per_epoch}
    if epochs is None:
        text = (
            f"{steps_per_epoch} an epoch: a run needs {needed} epochs and more, over "
            f"all rounds, for the {FEWEST_STEPS} steps that a student needs; the "
            f"coordinator's plan decides (rounds, local_epochs, local_steps)"
        )
        yield Finding("steps", "ok", text, facts=facts)
        return
    steps = steps_per_epoch * epochs
    facts["steps"] = steps
    text = f"{steps} in {epochs} epochs of {steps_per_epoch}"
    if steps >= FEWEST_STEPS:
        yield Finding("steps", "ok", text, facts=facts)
        return
    text = (
        f"{text}: under {FEWEST_STEPS} a student has hardly begun to learn; ask the "
        f"coordinator for {needed} epochs over all rounds (plan: local_epochs, or "
        f"local_steps), or add patches, or take a smaller training.batch_size"
    )
    yield Finding("steps", "warning", text, facts=facts)
