"""The README's commands do what they say: blocks marked `<!-- run -->` are run."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.machine.waiting import promised

_README = Path(__file__).resolve().parents[2] / "README.md"
_MARKED = re.compile(r"^<!-- run -->\n```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SECONDS = 240  # for all blocks together, on a busy machine
_STOP_SECONDS = 20.0
_LOOK_SECONDS = 0.2


def test_the_readmes_marked_commands_run_one_after_another(tmp_path: Path) -> None:
    readme = _README.read_text("utf-8")
    blocks = _MARKED.findall(readme)
    programs = Path(sys.executable).parent

    with (tmp_path / "said").open("w") as said:
        shell = subprocess.Popen(
            ["/bin/bash", "-euxo", "pipefail", "-c", "\n".join(blocks)],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
            stderr=subprocess.STDOUT,
            stdout=said,
            start_new_session=True,
        )
        try:
            status = shell.wait(promised(_SECONDS))
        finally:
            _end(shell.pid)  # and the coordinator that it left running

    assert len(blocks) == readme.count("<!-- run -->") > 0
    assert status == 0, (tmp_path / "said").read_text()


def _end(group: int) -> None:
    """Asks what runs in a process group to stop, and makes it after a while."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        for _ in range(int(_STOP_SECONDS / _LOOK_SECONDS)):
            os.killpg(group, 0)  # raises when nobody is left
            time.sleep(_LOOK_SECONDS)
        os.killpg(group, signal.SIGKILL)
