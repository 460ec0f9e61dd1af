"""What a program prints and logs, seen from outside: as a shell does."""

import subprocess
import sys

import pytest

from moma_core.runtime.cli import counted

_LOGS = """
import argparse, logging, sys
from moma_core.runtime.cli import run_command

def command(_arguments):
    for name in ("moma_core.x", "moma_client.y", "PIL.PngImagePlugin", "flwr"):
        for level in ("debug", "info", "warning", "error"):
            getattr(logging.getLogger(name), level)("%s %s", name, level)
    yield "done"

run_command(argparse.Namespace(command=command, verbose="-v" in sys.argv))
"""

_LINES = """
import argparse, sys
from moma_core.runtime.cli import run_command

def command(_arguments):
    for number in range(100_000):
        yield f"line {number}"

sys.exit(run_command(argparse.Namespace(command=command, verbose=False)))
"""

_HELP = """
import argparse, sys
from moma_core.runtime.cli import parsed

sys.stdin.read()
parsed(argparse.ArgumentParser(prog="x"), ["--help"])
"""

_NAMES = r"""
import argparse, sys
from moma_core.runtime.cli import parsed, run_command

def command(_arguments):
    yield "良性 M\udcfcller.png"

arguments = parsed(argparse.ArgumentParser(prog="x"), [])
sys.exit(run_command(argparse.Namespace(command=command, verbose=False)))
"""


def _run(program: str, *words: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment or None,
    )


@pytest.mark.parametrize("words", [(), ("-v",)])
def test_the_log_is_ours_and_of_others_only_what_went_wrong(
    words: tuple[str, ...],
) -> None:
    _, logged = _run(_LOGS, *words).communicate(timeout=60)

    said = [line.rpartition(": ")[2] for line in logged.splitlines()]
    own = ["info", "warning", "error"]
    own = ["debug", *own] if words else own
    assert said == [
        *(f"moma_core.x {level}" for level in own),
        *(f"moma_client.y {level}" for level in own),
        "PIL.PngImagePlugin error",
        "flwr error",
    ]


def test_a_reader_that_had_enough_gives_no_traceback() -> None:
    with _run(_LINES) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        process.stdout.close()

        assert process.wait(timeout=60) == 141
        assert first == "line 0\n"
        assert process.stderr.read() == ""


def test_help_for_a_reader_that_is_gone_gives_no_traceback() -> None:
    with _run(_HELP) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()  # now it may print

        process.wait(timeout=60)
        assert process.stderr.read() == ""


def test_a_terminal_without_unicode_shows_every_name() -> None:
    process = _run(_NAMES, PYTHONIOENCODING="ascii", PYTHONPATH=":".join(sys.path))
    printed, logged = process.communicate(timeout=60)

    assert (process.returncode, logged) == (0, "")
    assert printed == "\\u826f\\u6027 M\\udcfcller.png\n"


def test_a_number_has_its_noun() -> None:
    assert counted(1, "entry", "entries") == "1 entry"
