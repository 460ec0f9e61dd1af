"""Runs the command blocks of a page, as a reader would type them."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.machine.waiting import promised

_MARKED = re.compile(
    r"^<!-- run(?:: (.+?))? -->\n```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
_ANY_MARKED = re.compile(
    r"^<!-- (?:run|into (?P<file>\S+)): (?P<mark>.+?) -->\n```(?:bash|yaml)\n"
    r"(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_STOP_SECONDS = 20.0
_LOOK_SECONDS = 0.2


def marked_blocks(page: Path) -> list[tuple[str, str]]:
    """Returns mark and text of each block under `<!-- run -->` or `<!-- run: MARK -->`.

    Every such comment has its block, or the page is not what it looks like.
    """
    text = page.read_text("utf-8")
    blocks: list[tuple[str, str]] = _MARKED.findall(text)
    assert len(blocks) == text.count("<!-- run") > 0
    return blocks


def written_blocks(page: Path) -> list[tuple[str | None, str, str]]:
    """Returns the marked blocks of a page in their order, and what is written where.

    Returns:
        The config file that a block under `<!-- into FILE: MARK -->` belongs into, or
        None for a block that is run; its mark; its text.
    """
    blocks: list[tuple[str | None, str, str]] = []
    for found in _ANY_MARKED.finditer(page.read_text("utf-8")):
        blocks.append((found["file"], found["mark"], found["text"]))
    return blocks


def run_blocks(
    script: str,
    folder: Path,
    *,
    seconds: float,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Runs a shell script with our programs, and ends what it left running.

    Args:
        script: Blocks, one after another.
        folder: Where it runs.
        seconds: For all of it, on a busy machine.
        environment: Beside this process's own.

    Returns:
        The exit status, and what was said, with each command before it.
    """
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    log = folder / "said"
    with log.open("w") as said:
        shell = subprocess.Popen(
            ["/bin/bash", "-euxo", "pipefail", "-c", script],
            cwd=folder,
            env={**os.environ, **(environment or {}), "PATH": path},
            stderr=subprocess.STDOUT,
            stdout=said,
            start_new_session=True,
        )
        try:
            status = shell.wait(promised(seconds))
        finally:
            _end(shell.pid)
    return status, log.read_text("utf-8")


def _end(group: int) -> None:
    """Asks what runs in a process group to stop, and makes it after a while."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        for _ in range(int(_STOP_SECONDS / _LOOK_SECONDS)):
            os.killpg(group, 0)  # raises when nobody is left
            time.sleep(_LOOK_SECONDS)
        os.killpg(group, signal.SIGKILL)
