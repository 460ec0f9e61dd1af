"""Runs a program that dies with its parent: `python -m ... PARENT_PID COMMAND...`.

Linux sends a process a signal at its parent's death if the process requests it, and the
request outlives exec. A `preexec_fn` would do the same, unsafely, in a program that has
threads. Elsewhere than on Linux the program just runs.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    """Becomes the command; returns only if the parent is dead already."""
    parent, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == int(parent):
        os.execv(command[0], command)  # noqa: S606 - our own program, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
