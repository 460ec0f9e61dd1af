"""The processes of a SuperLink, found by its socket and by their common mark."""

from pathlib import Path

from moma_server.federation.engine.superlink import MARK


def processes_of(socket: Path, program: str) -> list[int]:
    """Returns the processes that run one of Flower's programs on the socket."""
    wanted = [str(socket).encode(), program.encode()]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        words = _words(process / "cmdline")
        if any(words[i : i + 2] == wanted for i in range(len(words))):
            found.append(int(process.name))
    return found


def tree_of(socket: Path) -> list[int]:
    """Returns SuperLink's process and all that carry the same mark."""
    (first,) = processes_of(socket, "flower-superlink")
    words = _words(Path(f"/proc/{first}/environ"))
    mark = next(word for word in words if word.startswith(f"{MARK}=".encode()))
    processes = Path("/proc").glob("[0-9]*")
    return [int(p.name) for p in processes if mark in _words(p / "environ")]


def _words(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\0")
    except OSError:
        return []
