"""The store keeps one round through any kill, and gives it back."""

import threading
from pathlib import Path

import numpy as np
import pytest

from moma_client.federation.inbox import TaskStore
from moma_core.errors import CheckpointError, FederationError
from moma_core.federation.task import RoundReport, RoundTask

WEIGHTS = {"w": np.ones(3, np.float32)}


def task(number: int, *, run: str = "r1") -> RoundTask:
    return RoundTask(
        kind="train",
        run=run,
        round=number,
        rounds=5,
        local_epochs=1,
        mode="fedavg",
        weights=WEIGHTS,
    )


def test_a_stored_task_is_there_after_a_restart(tmp_path: Path) -> None:
    TaskStore(tmp_path).put_task(task(1), "origin")

    store = TaskStore(tmp_path)
    unfinished = store.unfinished()
    stored = store.task()

    assert unfinished is not None
    assert unfinished.key == task(1).key
    assert unfinished.weights is not None
    np.testing.assert_array_equal(unfinished.weights["w"], WEIGHTS["w"])
    assert stored is not None
    assert stored.origin == "origin"


def test_a_reported_task_is_not_given_out_again(tmp_path: Path) -> None:
    store = TaskStore(tmp_path)
    store.put_task(task(1), "origin")

    store.put_report(task(1), RoundReport(patches=4, weights=WEIGHTS))

    assert store.unfinished() is None
    assert store.is_reported(task(1))
    assert not store.is_answered(task(1))


def test_work_for_a_run_that_is_under_way_no_more_is_dropped(tmp_path: Path) -> None:
    store = TaskStore(tmp_path)
    store.put_task(task(1, run="r1"), "origin")
    store.put_report(task(1, run="r1"), RoundReport(patches=4))

    kept = store.drop_of_other_runs("r1")
    dropped = store.drop_of_other_runs("r2")

    assert (kept, dropped) == (None, "r1")
    assert store.task() is None
    assert not store.is_reported(task(1, run="r1"))
    assert store.drop_of_other_runs("r2") is None


def test_a_report_outlives_its_answer_for_a_second_question(tmp_path: Path) -> None:
    store = TaskStore(tmp_path)
    store.put_task(task(1), "first")
    store.put_report(task(1), RoundReport(patches=4))
    store.answered(task(1))

    store.put_task(task(1), "second")
    report = store.report(task(1))

    assert store.unfinished() is None
    assert report is not None
    assert report.patches == 4


def test_a_failure_is_forgotten_with_its_answer(tmp_path: Path) -> None:
    store = TaskStore(tmp_path)
    store.put_task(task(1), "first")
    store.put_failure(task(1))
    failed = store.report(task(1))
    store.answered(task(1))

    store.put_task(task(1), "second")

    assert failed is None
    assert store.unfinished() is not None


def test_a_refusal_is_thought_over_when_it_is_asked_again(tmp_path: Path) -> None:
    store = TaskStore(tmp_path)
    store.put_task(task(1), "first")
    store.put_report(task(1), RoundReport(refusal="not today"))
    store.answered(task(1))

    store.put_task(task(1), "second")

    assert store.unfinished() is not None


def test_a_newer_task_takes_the_place_of_the_last(tmp_path: Path) -> None:
    store = TaskStore(tmp_path)
    store.put_task(task(1), "origin")
    store.put_report(task(1), RoundReport(patches=4))

    store.put_task(task(1, run="r2"), "origin")

    unfinished = store.unfinished()
    assert unfinished is not None
    assert unfinished.run == "r2"
    assert store.is_answered(task(1))


def test_a_report_that_breaks_the_contract_is_not_kept(tmp_path: Path) -> None:
    store = TaskStore(tmp_path)
    store.put_task(task(1), "origin")

    with pytest.raises(FederationError, match="metrics"):
        store.put_report(task(1), RoundReport(metrics={"patient 4711": 1.0}))

    assert store.unfinished() is not None


def test_nothing_stored_means_nothing_to_do(tmp_path: Path) -> None:
    store = TaskStore(tmp_path / "new")

    assert store.task() is None
    assert store.unfinished() is None
    assert store.is_answered(task(1))
    with pytest.raises(CheckpointError, match="no report"):
        store.report(task(1))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "task.safetensors").write_bytes(b"torn")

    with pytest.raises(CheckpointError, match="task"):
        TaskStore(tmp_path).unfinished()


def test_looking_while_the_other_process_puts_and_takes_is_never_damage(
    tmp_path: Path,
) -> None:
    node, session = TaskStore(tmp_path), TaskStore(tmp_path)
    done = threading.Event()

    def put_and_take() -> None:
        for number in range(1, 61):
            node.put_task(task(1 + number % 5), "origin")
            node.answered(task(1 + number % 5))
        done.set()

    writer = threading.Thread(target=put_and_take)
    writer.start()
    seen = 0
    while not done.is_set():
        seen += session.unfinished() is not None
    writer.join()

    assert seen > 0
    assert session.unfinished() is None
