"""What others wrote, such as a file's name, commands no terminal and forges no line."""

import argparse
import logging
from collections.abc import Iterator

import pytest

from moma_core.errors import DataError
from moma_core.runtime import cli

NAME = "a\x1b[2J\x9b31m\u202etxt.exe\nmoma\r.png"


def _run(
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fails: bool = False,
    verbose: bool = False,
) -> None:
    with monkeypatch.context() as fresh:  # as in a program, which has no handlers yet
        fresh.setattr(logging.getLogger(), "handlers", [])
        fresh.setattr(logging.getLogger(), "level", logging.WARNING)
        cli.run_command(_arguments(text, fails=fails, verbose=verbose))


def _arguments(text: str, *, fails: bool, verbose: bool) -> argparse.Namespace:
    def command(_: argparse.Namespace) -> Iterator[str]:
        yield f"wrote {text}"
        if fails:
            raise DataError(f"cannot read {text}")

    return argparse.Namespace(command=command, verbose=verbose)


def test_a_files_name_commands_no_terminal_and_begins_no_line_of_the_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(NAME, monkeypatch, fails=True)

    printed, logged = capsys.readouterr()
    first, second = logged.rstrip("\n").split("\n")
    assert first.endswith(r"cannot read a\x1b[2J\x9b31m\u202etxt.exe")
    assert second == r"  moma\r.png"
    assert printed == "wrote a\\x1b[2J\\x9b31m\\u202etxt.exe\nmoma\\r.png\n"


def test_a_traceback_commands_no_terminal_and_begins_no_line_of_the_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(NAME, monkeypatch, fails=True, verbose=True)

    first, *more = capsys.readouterr().err.rstrip("\n").split("\n")
    assert "ERROR" in first
    assert more[-2:] == [
        r"  moma_core.errors.DataError: cannot read a\x1b[2J\x9b31m\u202etxt.exe",
        r"  moma\r.png",
    ]
    assert all(line.startswith("  ") and line.isprintable() for line in more)


def test_what_people_write_is_printed_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "gut\u00adartig\tM\u00fcller \u826f\u6027\u3000x"

    _run(text, monkeypatch)

    assert capsys.readouterr().out == f"wrote {text}\n"
