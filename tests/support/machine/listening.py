"""Which TCP sockets of a process wait for others to connect."""

import ipaddress
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LISTEN = "0A"


def listening(pid: int) -> set[tuple[Address, int]]:
    """Returns address and port of each listening socket of a process and its own.

    Source: proc(5), /proc/net/tcp.
    """
    found = _listening(pid)
    for process in list(descendants(pid)):
        with suppress(OSError):  # it has ended by now
            found |= _listening(process)
    return found


def _listening(pid: int) -> set[tuple[Address, int]]:
    own, found = set(_sockets(pid)), set()
    for table in ("tcp", "tcp6"):
        lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()
        for line in lines[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and fields[9] in own:
                found.add(_endpoint(fields[1]))
    return found


def descendants(pid: int) -> Iterator[int]:
    """Yields the processes that a process has started, and those that these have."""
    with suppress(OSError):  # it, or its thread, has ended by now
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from descendants(int(child))


def _sockets(pid: int) -> Iterator[str]:
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed by now
            target = os.readlink(handle)  # noqa: PTH115
            if target.startswith("socket:["):
                yield target[8:-1]


def _endpoint(text: str) -> tuple[Address, int]:
    address, _, port = text.partition(":")
    words = bytes.fromhex(address)
    turned = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
    return ipaddress.ip_address(turned), int(port, 16)
