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


class _NoChild:
    """In place of the node's process, which would dial the coordinator."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.mark.parametrize(
    ("under_way", "is_left"), [("run-1-0a", False), ("run-2-0b", True), (None, False)]
)
def test_what_was_begun_for_another_run_is_left(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
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
    node = FederationNode(settings_in(tmp_path), under_way)
    monkeypatch.setattr(node, "_child", _NoChild())

    with caplog.at_level(logging.INFO), node:
        left = TaskStore(tmp_path).unfinished() is None

    said = f"what was begun for run-1-0a is left: the coordinator runs {under_way}"
    assert left is is_left
    assert (said in caplog.messages) is is_left


def test_what_is_waited_for_is_said_once_the_nodes_process_has_heard_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_in(tmp_path)
    node = FederationNode(settings, "run-1-0a")
    state = RunState(run="run-1", phase="gathering", here=1, wanted=2)
    with caplog.at_level(logging.INFO):
        node._listen()
        assert node.state is None
        assert not caplog.messages
        settings.state_file.write_bytes(state.to_json())

        node._listen()

    assert node.state == state
    (said,) = caplog.messages
    assert said.startswith("waiting: 1 of 2 sites, waiting for 1")


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


def test_a_nodes_process_that_the_kernel_killed_is_not_taken_for_an_absent_coordinator(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = FederationNode(settings_in(tmp_path))

    node._log_exit(-9, 2.0)
    node._log_exit(1, 2.0)

    killed, away = caplog.messages
    assert "was killed (SIGKILL), as the kernel does where memory is short" in killed
    assert away.startswith("not connected, waiting for the coordinator")
