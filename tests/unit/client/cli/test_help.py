"""What `--help` says, of both programs."""

import argparse
import shlex
from collections.abc import Callable
from importlib.metadata import version

import pytest

from moma_client.cli import main as client
from moma_core.runtime.cli import commands_of
from moma_server.cli import main as server

_PARSERS = {"moma-client": client._parser(), "moma-server": server._parser()}
_COMMANDS = [
    (program, name, command)
    for program, parser in _PARSERS.items()
    for name, command in commands_of(parser)
]
_NAMES = [f"{program} {name}".strip() for program, name, _ in _COMMANDS]


@pytest.mark.parametrize(("program", "name", "command"), _COMMANDS, ids=_NAMES)
def test_every_command_shows_examples_that_it_takes(
    program: str, name: str, command: argparse.ArgumentParser
) -> None:
    shown = command.format_help().split("examples:\n")[1].splitlines()

    assert shown
    for line in shown:
        words = shlex.split(line.partition("<")[0].partition(">")[0])
        assert words[0] == program
        assert " ".join(words).startswith(f"{program} {name}".strip())
        assert _PARSERS[program].parse_args(words[1:])


@pytest.mark.parametrize(("program", "name", "command"), _COMMANDS, ids=_NAMES)
def test_no_help_has_the_marks_of_a_document(
    program: str, name: str, command: argparse.ArgumentParser
) -> None:
    assert "`" not in command.format_help()


@pytest.mark.parametrize("main", [client.main, server.main])
def test_each_program_says_its_version(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert ended.value.code == 0
    program = main.__module__.partition(".")[0].replace("_", "-")
    assert capsys.readouterr().out == f"{program} {version('moma-service')}\n"
