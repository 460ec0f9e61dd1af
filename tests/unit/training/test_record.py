"""What is told and kept of a run."""

import csv
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from moma_core.distillation.step import StepLosses
from moma_core.training.record import (
    CSV_NAME,
    TENSORBOARD_FOLDER,
    StepFacts,
    TrainingRecord,
)
from moma_core.training.settings import TrainingSettings


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _facts(step: int, total: float = 2.0) -> StepFacts:
    losses = StepLosses(*map(torch.tensor, (1.5, 0.5, 0.0, total)))
    return StepFacts(
        step=step,
        epoch=step / 10,
        until=40,
        losses=losses,
        learning_rate=0.05,
        patches=64,
        waited_seconds=0.5,
    )


def _record(folder: Path, clock: Clock, **changes: Any) -> TrainingRecord:
    settings = TrainingSettings(**{"record_every_steps": 2, **changes})
    return TrainingRecord(folder, "moma", settings, clock=clock)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / CSV_NAME).open(newline="") as file:
        return list(csv.DictReader(file))


def _scalars(folder: Path) -> list[tuple[int, str, float]]:
    """Reads TensorBoard's files: length, its checksum, an event, its checksum."""
    found = []
    for path in sorted((folder / TENSORBOARD_FOLDER).iterdir()):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + length])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            content = content[16 + length :]
    return found


def _do(record: TrainingRecord, clock: Clock, steps: range, seconds: float = 2) -> None:
    for step in steps:
        clock.now += seconds
        record.add(_facts(step, total=step))


def test_a_log_without_a_terminal_gets_a_line_now_and_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    record = _record(tmp_path, clock, log_every_seconds=10)
    record.start(0)

    with caplog.at_level(logging.INFO, "moma_core.training.record"):
        _do(record, clock, range(1, 6))
        _do(record, clock, range(6, 11), seconds=4)
    record.close()

    # losses and pace are of the steps since the last line, the time left is of all
    assert caplog.messages == [
        "moma: step 5 of 40, loss 3 (classification 1.5, contrastive 0.5), 32 patches "
        "a second, 25 % of the time waiting for them, 0:01:10 left",
        "moma: step 8 of 40, loss 7 (classification 1.5, contrastive 0.5), 16 patches "
        "a second, 12 % of the time waiting for them, 0:01:28 left",
    ]


@pytest.mark.parametrize("way", ["a bar", "0 seconds"])
def test_where_a_bar_is_shown_or_nobody_asks_no_line_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    clock = Clock()
    settings = TrainingSettings(log_every_seconds=0 if way == "0 seconds" else 1)
    record = TrainingRecord(
        tmp_path, "moma", settings, logs_progress=way != "a bar", clock=clock
    )
    record.start(0)

    with caplog.at_level(logging.INFO, "moma_core.training.record"):
        _do(record, clock, range(1, 5))
    record.close()

    assert caplog.messages == []


def test_the_table_and_tensorboards_file_hold_the_same(tmp_path: Path) -> None:
    clock = Clock()
    record = _record(tmp_path, clock)
    record.start(0)
    _do(record, clock, range(1, 5))
    record.add_figures(4, {"validation_macro_f1": 0.75, "validation_recall_tum": 0.5})
    record.close()

    rows = _rows(tmp_path)

    assert [row["step"] for row in rows] == ["2", "4", "4"]
    assert float(rows[0]["total"]) == 2.0
    assert float(rows[0]["patches_a_second"]) == 32.0
    assert rows[2]["validation_macro_f1"] == "0.75"
    scalars = _scalars(tmp_path)
    assert (2, "total", 2.0) in scalars
    assert (4, "validation_macro_f1", 0.75) in scalars
    assert (4, "validation_recall_tum", 0.5) in scalars


def test_a_resumed_run_writes_no_step_twice(tmp_path: Path) -> None:
    clock = Clock()
    first = _record(tmp_path, clock)
    first.start(0)
    _do(first, clock, range(1, 9))  # killed here, the checkpoint is of step 5
    first.close()
    with (tmp_path / CSV_NAME).open("a") as file:
        file.write("2026-01-01T00:00:00+00:00,8,0")  # a line that was cut off

    second = _record(tmp_path, clock)
    second.start(5)
    _do(second, clock, range(6, 11))
    second.close()

    assert [row["step"] for row in _rows(tmp_path)] == ["2", "4", "6", "8", "10"]


def test_a_disk_that_takes_no_more_of_it_stops_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    record = _record(tmp_path, clock)
    record.start(0)
    _do(record, clock, range(1, 3))
    (tmp_path / CSV_NAME).unlink()
    (tmp_path / CSV_NAME).mkdir()  # stands for a disk that fails

    _do(record, clock, range(3, 9))
    record.close()

    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "gets no more lines" in warnings[0].message


def test_nothing_is_written_where_nobody_wants_it(tmp_path: Path) -> None:
    clock = Clock()
    record = _record(tmp_path, clock, record_every_steps=0)

    record.start(0)
    _do(record, clock, range(1, 5))
    record.close()

    assert list(tmp_path.iterdir()) == []
