"""How a command of either program begins and ends."""

import argparse
import logging
import os
import resource

from moma_core.errors import MomaError, StoppedError
from moma_core.runtime.files import DISK_FAULTS, disk_fault

_CHATTY = ("httpx", "alembic", "flwr", "lightning_fabric", "uvicorn")


def run_command(arguments: argparse.Namespace, stopped: str = "") -> int:
    """Prints what a command yields, and returns the exit status.

    Whatever it writes, others on the machine cannot read: ledgers, records and students
    are as secret as keys. A crash leaves no core dump.

    Args:
        arguments: With `command`, which takes them, and `verbose`.
        stopped: Added to the message when the operator stops it.

    Returns:
        0 where all is done, else the error's own, see `MomaError.exit_code`: 1 the
        operator can mend it, 3 refused by a policy, 130 stopped by the operator. A
        parser's own is 2.
    """
    os.umask(0o077)
    _leave_no_core()
    _start_logging(verbose=arguments.verbose)
    logger = logging.getLogger(__name__)
    try:
        for line in arguments.command(arguments):
            print(line)
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
    return 0


def _leave_no_core() -> None:
    """Has a crash write no memory to the disk: keys and patches are in it.

    The kernel hands none to a program that collects them, either, where the limit is 1.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    if most == resource.RLIM_INFINITY or most >= 1:
        resource.setrlimit(resource.RLIMIT_CORE, (1, most))


def _start_logging(*, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if not verbose:
        for chatty in _CHATTY:
            logging.getLogger(chatty).setLevel(logging.WARNING)


def counted(number: int, one: str, many: str) -> str:
    """Returns a number with its noun: `1 entry`, `2 entries`."""
    return f"{number} {one if number == 1 else many}"
