from dataclasses import replace

import pytest

from moma_core.federation.disclosure import RoundBounds
from moma_core.federation.messages import (
    pack_task,
    task_from_header,
    task_header,
    unpack_task,
)
from moma_core.federation.schedule import (
    FEWEST_STEPS,
    look_at_steps,
    steps_a_round,
    with_epochs,
)
from moma_core.federation.task import RoundTask

TASK = RoundTask(
    kind="train", run="run", round=1, rounds=3, local_epochs=1, mode="independent"
)
BOUNDS = RoundBounds(
    epochs_per_round=50,
    epochs_per_run=500,
    rounds_per_run=500,
    runs=20,
    evaluations_per_run=1000,
    weights_may_leave=False,
)


@pytest.mark.parametrize("rounds", [1, 3, 10, 1000])
def test_a_new_coordinators_run_has_the_steps_that_a_student_needs(rounds: int) -> None:
    assert steps_a_round(rounds) * rounds >= FEWEST_STEPS


@pytest.mark.parametrize(
    ("local_epochs", "local_steps", "steps_per_epoch", "epochs"),
    [
        (1, 67, 6, 12),  # a small site takes more epochs
        (1, 67, 3000, 1),  # a large one has them in its first
        (3, 6, 6, 3),  # epochs that are named stay
        (1, 0, 6, 1),  # as in a plan without steps
        (1, 67, 1, 50),  # the site's own limit ends it
    ],
)
def test_steps_become_epochs_at_each_site_within_its_limits(
    local_epochs: int, local_steps: int, steps_per_epoch: int, epochs: int
) -> None:
    task = replace(TASK, local_epochs=local_epochs, local_steps=local_steps)

    assert with_epochs(task, steps_per_epoch, BOUNDS).local_epochs == epochs


def test_a_run_with_many_rounds_stays_within_the_sites_epochs_of_a_run() -> None:
    task = replace(TASK, rounds=100, local_steps=1000)

    scheduled = with_epochs(task, 1, BOUNDS)

    assert scheduled.rounds * scheduled.local_epochs == BOUNDS.epochs_per_run


def test_epochs_beyond_the_sites_limit_are_left_for_it_to_refuse() -> None:
    task = replace(TASK, local_epochs=51, local_steps=10)

    assert with_epochs(task, 6, BOUNDS).local_epochs == 51


def test_steps_travel_and_a_task_without_them_is_as_an_earlier_release_wrote_it() -> (
    None
):
    with_steps = replace(TASK, local_steps=67)

    back = unpack_task(pack_task(with_steps), max_weights_bytes=0)

    assert back.local_steps == 67
    assert "local_steps" not in task_header(TASK)
    assert task_from_header(task_header(TASK), None).local_steps == 0


@pytest.mark.parametrize(
    ("steps_per_epoch", "epochs", "state", "said"),
    [
        (6, 3, "warning", "18 in 3 epochs of 6: under 100"),
        (6, 3, "warning", "ask the coordinator for 17 epochs"),
        (6, 34, "ok", "204 in 34 epochs"),
        (6, None, "ok", "a run needs 17 epochs and more"),
    ],
)
def test_a_run_of_few_steps_is_told_with_the_epochs_that_it_needs(
    steps_per_epoch: int, epochs: int | None, state: str, said: str
) -> None:
    (finding,) = look_at_steps(steps_per_epoch, epochs)

    assert finding.state == state
    assert said in finding.text
