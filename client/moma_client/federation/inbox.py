"""The round that a site works on, on its disk: the task, then the report.

Two processes share it. The node's process puts a task and takes the report away; the
session's process takes the task and puts the report. A task is confirmed to the
coordinator only after it lies here, so a kill at any moment loses no work: what was
begun is begun again, and what was finished is sent again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from moma_core.errors import CheckpointError
from moma_core.federation.messages import (
    report_from_header,
    report_header,
    task_from_header,
    task_header,
)
from moma_core.federation.task import RoundReport, RoundTask, Weights
from moma_core.federation.weights import (
    load_metadata,
    load_with_metadata,
    save_weights,
)
from moma_core.runtime.files import make_folder, writing


class StoredTask(NamedTuple):
    """A task, and the opaque text that the node needs to answer it."""

    task: RoundTask
    origin: str


class TaskStore:
    """At most one task and one report: the newest.

    A report stays when its task is answered: should the answer get lost, the
    coordinator asks again, and the report is there.

    Args:
        folder: Where task and report lie; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._task = folder / "task.safetensors"
        self._report = folder / "report.safetensors"
        self._failure = folder / "failure.safetensors"

    def put_task(self, task: RoundTask, origin: str) -> None:
        """Keeps a task instead of the last one.

        Raises:
            FederationError: The task breaks the contract.
            DiskError: The disk does not take it.
        """
        header = task_header(task)
        metadata = {"key": task.key, "header": header, "origin": origin}
        # of a few bytes, laid out while there is room: a disk that is full by the time
        # the site fails still lets a file have another name
        _write(self._failure, None, {"key": task.key, "failed": "yes"})
        _write(self._task, task.weights, metadata)

    def task(self) -> StoredTask | None:
        """Returns the task that is not answered yet, finished or not.

        Raises:
            CheckpointError: The file is damaged.
        """
        stored = _read(self._task)
        if stored is None:
            return None
        weights, metadata = stored
        if not {"header", "origin"} <= metadata.keys():
            raise CheckpointError(f"{self._task} holds no task")
        task = task_from_header(metadata["header"], weights or None)
        return StoredTask(task, metadata["origin"])

    def unfinished(self) -> RoundTask | None:
        """Returns the task that waits for its report.

        Raises:
            CheckpointError: A file is damaged.
        """
        key = _key(self._task)
        if key is None or key == _key(self._report):
            return None
        stored = self.task()
        return None if stored is None else stored.task

    def put_report(self, task: RoundTask, report: RoundReport) -> None:
        """Keeps what the site answers.

        Raises:
            FederationError: The report breaks the contract.
            DiskError: The disk does not take it.
        """
        metadata = {"key": task.key, "header": report_header(report)}
        _write(self._report, report.weights, metadata)

    def put_failure(self, task: RoundTask) -> None:
        """Says that the site could not do the work; why stays at the site.

        Raises:
            DiskError: The disk takes nothing, and nothing was laid out.
        """
        if _key(self._failure) == task.key:
            with writing(self._report, "the report"):
                self._failure.replace(self._report)
        else:
            _write(self._report, None, {"key": task.key, "failed": "yes"})

    def drop_of_other_runs(self, run: str) -> str | None:
        """Drops a task that nobody waits for, and what was answered to it.

        Args:
            run: Run that is under way, as its tasks call it.

        Returns:
            The run of the dropped task; None: there was none.

        Raises:
            CheckpointError: The file is damaged.
        """
        stored = self.task()
        if stored is None or stored.task.run == run:
            return None
        self._task.unlink(missing_ok=True)
        self._report.unlink(missing_ok=True)
        return stored.task.run

    def is_reported(self, task: RoundTask) -> bool:
        """Whether the site has finished `task`, well or not."""
        return _key(self._report) == task.key

    def report(self, task: RoundTask) -> RoundReport | None:
        """Returns the report on `task`; None when the site has failed.

        Raises:
            CheckpointError: There is no report on `task`, or it is damaged.
        """
        weights, metadata = _read(self._report) or ({}, {})
        if metadata.get("key") != task.key:
            raise CheckpointError(f"there is no report on {task.key}")
        if "failed" in metadata:
            return None
        return report_from_header(metadata.get("header", ""), weights or None)

    def answered(self, task: RoundTask) -> None:
        """Drops the task.

        A report that says no goes with it: asked again, the site tries again.
        """
        report = self.report(task) if self.is_reported(task) else None
        self._task.unlink(missing_ok=True)
        if report is None or report.refusal is not None:
            self._report.unlink(missing_ok=True)

    def is_answered(self, task: RoundTask) -> bool:
        """Whether `task` lies here no more."""
        return _key(self._task) != task.key


def _write(path: Path, weights: Weights | None, metadata: Mapping[str, str]) -> None:
    save_weights(path, weights or {}, metadata)


def _read(path: Path) -> tuple[Weights, dict[str, str]] | None:
    try:
        return load_with_metadata(path)
    except CheckpointError as error:
        if _was_missing(error):
            return None
        raise


def _key(path: Path) -> str | None:
    try:
        return load_metadata(path).get("key")
    except CheckpointError as error:
        if _was_missing(error):
            return None
        raise


def _was_missing(error: CheckpointError) -> bool:
    """Says what was there when it was read: a look afterwards may find the next one."""
    return isinstance(error.__cause__, FileNotFoundError)
