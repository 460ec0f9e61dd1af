"""What a site waits for, and what it waits for no more."""

import logging
from pathlib import Path

import pytest

from moma_client.federation.inbox import TaskStore
from moma_client.federation.node import FederationNode, NodeSettings
from moma_core.federation.run_state import RunState
from moma_core.federation.task import RoundTask


def settings_in(folder: Path) -> NodeSettings:
    return NodeSettings(
        address="127.0.0.1:9",
        ca_certificate=folder,
        node_key=folder,
        folder=folder,
    )


@pytest.mark.parametrize(
    ("under_way", "is_left"), [("run-1-0a", False), ("run-2-0b", True), (None, False)]
)
def test_what_was_begun_for_another_run_is_left(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    under_way: str | None,
    is_left: bool,
) -> None:
    task = RoundTask(
        kind="train",
        run="run-1-0a",
        round=1,
        rounds=2,
        local_epochs=1,
        mode="independent",
    )
    TaskStore(tmp_path).put_task(task, "{}")
    state = RunState(run="run", task_run=under_way, phase="gathering")

    with (
        caplog.at_level(logging.INFO),
        FederationNode(settings_in(tmp_path), state),
    ):
        left = TaskStore(tmp_path).unfinished() is None

    said = f"what was begun for run-1-0a is left: the coordinator runs {under_way}"
    assert left is is_left
    assert (said in caplog.messages) is is_left


def test_a_site_that_hears_nothing_says_so_now_and_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = FederationNode(settings_in(tmp_path))
    with caplog.at_level(logging.WARNING):
        node._listen()
        assert not caplog.messages
        node._heard_at -= 600

        node._listen()
        node._listen()

    assert caplog.messages == [
        "nothing was heard of the coordinator at 127.0.0.1:9 for 10 min; this site "
        "waits for 72 h in all"
    ]
