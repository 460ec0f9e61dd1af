import argparse
import errno
import logging
import os
import resource
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


def test_a_crash_of_a_command_leaves_no_core() -> None:
    before = resource.getrlimit(resource.RLIMIT_CORE)

    run_command(_raising(None))
    during = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, before)

    assert during[0] in {0, 1}
    assert during[1] == before[1]


def test_a_disk_that_fails_where_nobody_looked_is_a_sentence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/out.csv")

    assert run_command(_raising(error)) == 1

    assert caplog.messages == [
        "cannot use /data/out.csv: No space left on device; "
        "free some space there, then start again"
    ]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 4 GB"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_too_little_memory_is_a_sentence(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    assert run_command(_raising(error)) == 1

    (message,) = caplog.messages
    assert message.startswith("there is too little memory: give the program more")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ImportError("no module")])
def test_no_other_error_is_taken_for_one_of_memory(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_command(_raising(error))


def test_an_error_that_no_operator_can_mend_keeps_its_traceback() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        run_command(_raising(OSError(errno.EBADF, os.strerror(errno.EBADF))))
