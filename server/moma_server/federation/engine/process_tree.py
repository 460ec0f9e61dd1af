"""Ends every process of a tree, also those that have left their parent's group.

SuperLink's children start sessions of their own and are re-parented when it dies, so
neither group nor parent leads to them. What they keep is the environment they
inherited: a mark in it finds them all. Without /proc there is nothing to look at, and
Flower's children end by themselves when they miss their parent.
"""

import os
import signal
from pathlib import Path

MARK = "MOMA_SUPERLINK"


def kill_marked(mark: str, *, spare: int = 0) -> int:
    """Kills every process whose environment has MARK=`mark`; returns how many.

    Args:
        mark: A secret of one tree.
        spare: A process id that is left alone.
    """
    entry = f"{MARK}={mark}".encode()
    return sum(
        _kill(int(process.name), entry)
        for process in Path("/proc").glob("[0-9]*")
        if int(process.name) not in (spare, os.getpid())
    )


def _kill(pid: int, entry: bytes) -> bool:
    """Kills `pid` if it carries the entry; the handle keeps to this very process."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if entry not in environment:
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(handle)
