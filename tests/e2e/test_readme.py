"""The README's commands do what they say: blocks marked `<!-- run -->` are run."""

import os
import re
import subprocess
import sys
from pathlib import Path

_README = Path(__file__).resolve().parents[2] / "README.md"
_MARKED = re.compile(r"^<!-- run -->\n```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SECONDS = 120  # for all blocks together


def test_the_readmes_marked_commands_run_one_after_another(tmp_path: Path) -> None:
    readme = _README.read_text("utf-8")
    blocks = _MARKED.findall(readme)
    programs = Path(sys.executable).parent

    done = subprocess.run(
        ["/bin/bash", "-euxo", "pipefail", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_SECONDS,
        check=False,
    )

    assert len(blocks) == readme.count("<!-- run -->") > 0
    assert done.returncode == 0, done.stdout
