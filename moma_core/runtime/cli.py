"""How a command of either program begins and ends."""

import argparse
import logging
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from moma_core.errors import MomaError, StoppedError
from moma_core.runtime.files import DISK_FAULTS, disk_fault

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

Parser: TypeAlias = "argparse._ActionsContainer"
"""A command's parser, or a group of its options."""

Command: TypeAlias = Callable[[argparse.Namespace], Iterator[str]]
"""Does what a command is for, and yields the lines that it prints."""

_OURS = ("moma_core", "moma_proto", "moma_server", "moma_client", "__main__")

_TOO_LITTLE_MEMORY = (
    "there is too little memory: give the program more (ulimit -v, the container's or "
    "the unit's limit), or let it work on smaller batches; the state on disk resumes"
)
_MEMORY_WORDS = (
    "can't allocate memory",  # torch, by its allocator
    "cannot allocate memory",  # the loader of libraries
    "failed to map segment",
    "can't start new thread",  # its stack finds no room
)
_PIPE_CLOSED = 141  # as a shell has it of a program that SIGPIPE ended
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
"""What a terminal obeys, or turns a line by; a name of a file may hold it."""


class _PrintVersion(argparse.Action):
    """Looks for the installed version when it is asked for, and not at each start."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        _namespace: argparse.Namespace,
        _values: object,
        _option: str | None = None,
    ) -> None:
        """Prints program and version, and ends the program."""
        print(f"{parser.prog} {version('moma-service')}")
        parser.exit()


def parsed(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Returns the arguments; ends the program as argparse does, or completes a word.

    Args:
        parser: Of the program.
        argv: Words of the command line; None: those of this process.
    """
    text = "print the version and exit"
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help=text)
    if "_ARGCOMPLETE" in os.environ:  # a shell wants to know what may follow
        import argcomplete

        argcomplete.autocomplete(parser)
    _write_any_name(sys.stdout)
    _write_any_name(sys.stderr)
    try:
        return parser.parse_args(argv)
    except SystemExit:
        _print_all([], flushes=True)  # --help into a pipe that was closed
        raise


def add_option(parser: Parser, flag: str, text: str, **settings: Any) -> None:  # noqa: ANN401 - argparse's own
    """Adds an option with a value, whose text ends with the default if it has one."""
    if settings.get("default"):
        text += " (default: %(default)s)"
    parser.add_argument(flag, help=text, **settings)


def add_path(parser: Parser, flag: str, text: str, **settings: Any) -> None:  # noqa: ANN401 - argparse's own
    """Adds an option whose value is a file, unless a `metavar` says otherwise."""
    add_option(parser, flag, text, type=Path, **{"metavar": "FILE", **settings})


def add_switch(parser: Parser, flag: str, text: str) -> None:
    """Adds an option without a value."""
    parser.add_argument(flag, action="store_true", help=text)


def add_examples(
    parser: argparse.ArgumentParser, examples: Mapping[str, Sequence[str]]
) -> None:
    """Has each command's `--help` end with its examples.

    Args:
        parser: Of the program, with all its commands.
        examples: Lines by command, such as `audit verify`; "" is the program's own.
    """
    for name, command in commands_of(parser):
        lines = "\n".join(f"  {line}" for line in examples[name])
        command.epilog = f"examples:\n{lines}"
        command.formatter_class = argparse.RawDescriptionHelpFormatter


def commands_of(
    parser: argparse.ArgumentParser, name: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yields the parser and those of its commands, each with its name."""
    yield name, parser
    for action in parser._actions:  # argparse shows its commands in no other way
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                yield from commands_of(command, f"{name} {word}".strip())


def run_command(arguments: argparse.Namespace, stopped: str = "") -> int:
    """Prints what a command yields, and returns the exit status.

    Whatever it writes, others on the machine cannot read: ledgers, records and students
    are as secret as keys. A crash leaves no core dump.

    Args:
        arguments: With `command`, which takes them, and `verbose`.
        stopped: Added to the message when the operator stops it.

    Returns:
        0 where all is done, else the error's own, see `MomaError.exit_code`: 1 the
        operator can mend it, 3 refused by a policy, 130 stopped by the operator, 141
        nobody reads what it prints. A parser's own is 2.
    """
    os.umask(0o077)
    _leave_no_core()
    _start_logging(verbose=arguments.verbose)
    logger = logging.getLogger(__name__)
    try:
        return _print_all(arguments.command(arguments))
    except (StoppedError, KeyboardInterrupt) as error:
        logger.warning("%s%s", str(error) or "stopped", stopped)
        return StoppedError.exit_code
    except MomaError as error:
        logger.error("%s", error, exc_info=arguments.verbose)
        return error.exit_code
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        logger.error("%s", disk_fault(error), exc_info=arguments.verbose)
        return MomaError.exit_code
    except (MemoryError, RuntimeError, ImportError) as error:
        if not _is_short_of_memory(error):
            raise
        logger.error(_TOO_LITTLE_MEMORY, exc_info=arguments.verbose)
        return MomaError.exit_code


def _is_short_of_memory(error: BaseException) -> bool:
    """Whether the machine had no memory left, in the words of torch and the loader."""
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in _MEMORY_WORDS
    )


def _leave_no_core() -> None:
    """Has a crash write no memory to the disk: keys and patches are in it.

    The kernel hands none to a program that collects them, either, where the limit is 1.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    if most == resource.RLIM_INFINITY or most >= 1:
        resource.setrlimit(resource.RLIMIT_CORE, (1, most))


def _print_all(lines: Iterator[str] | Sequence[str], *, flushes: bool = True) -> int:
    """Prints lines until nobody reads them; returns the exit status."""
    for line in lines:
        try:
            print(_without_commands(line), flush=flushes)
        except BrokenPipeError:
            return _without_reader()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _without_reader()
    return 0


def _without_reader() -> int:
    """Leaves Python nothing to complain of when it flushes at its end."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return _PIPE_CLOSED


def _write_any_name(stream: TextIO) -> None:
    r"""Has a name that the terminal cannot show come out as `\xfc`, not as an error."""
    if reconfigure := getattr(stream, "reconfigure", None):
        reconfigure(errors="backslashreplace")


def _without_commands(text: str) -> str:
    r"""Returns a text in which a command to the terminal is read as `\x1b`."""
    return _COMMANDS.sub(lambda found: repr(found[0])[1:-1], text)


class SafeLines(logging.Formatter):
    """Writes a record whose further lines cannot be taken for other records."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns its text and traceback, in which a terminal finds no command."""
        text = _without_commands(super().format(record))
        return re.sub(r"\n(?!\s)", "\n  ", text)


class _OursOrGrave(logging.Filter):
    """Lets records of our packages through, and errors of other libraries."""

    def filter(self, record: logging.LogRecord) -> bool:
        is_ours = record.name.partition(".")[0] in _OURS
        return is_ours or record.levelno >= logging.ERROR


def _start_logging(*, verbose: bool) -> None:
    root = logging.getLogger()
    if root.handlers:
        return  # who calls the program as a function has its own
    handler = logging.StreamHandler()
    handler.setFormatter(SafeLines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_OursOrGrave())
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbose else logging.INFO)


def counted(number: int, one: str, many: str) -> str:
    """Returns a number with its noun: `1 entry`, `2 entries`."""
    return f"{number} {one if number == 1 else many}"
