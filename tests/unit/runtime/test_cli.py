import argparse
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from moma_core.errors import BudgetSpentError, ConfigError, StoppedError
from moma_core.runtime.cli import run_command


@pytest.fixture(autouse=True)
def _same_umask_after() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def _raising(error: BaseException | None) -> argparse.Namespace:
    def command(_arguments: argparse.Namespace) -> Iterator[str]:
        yield "a line"
        if error is not None:
            raise error

    return argparse.Namespace(command=command, verbose=False)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (None, 0, ""),
        (ConfigError("no file x"), 1, "no file x"),
        (BudgetSpentError("the budget is spent"), 3, "the budget is spent"),
        (StoppedError(""), 130, "stopped; try again"),
        (KeyboardInterrupt(), 130, "stopped; try again"),
    ],
)
def test_a_command_ends_with_a_sentence_and_a_status(
    error: BaseException | None,
    status: int,
    said: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.INFO):
        assert run_command(_raising(error), stopped="; try again") == status

    assert caplog.messages == ([said] if said else [])
    assert capsys.readouterr().out == "a line\n"


def test_others_on_the_machine_read_nothing_that_a_command_writes(
    tmp_path: Path,
) -> None:
    def command(_arguments: argparse.Namespace) -> Iterator[str]:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "budget.db").touch()
        yield "written"

    assert run_command(argparse.Namespace(command=command, verbose=False)) == 0

    modes = [path.stat().st_mode & 0o077 for path in tmp_path.rglob("*")]
    assert modes == [0, 0]
