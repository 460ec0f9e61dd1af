"""What a shell is told when a word is to be completed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("module", "line", "words"),
    [
        ("moma_client.cli.main", "moma-client exp", {"export"}),
        ("moma_client.cli.main", "moma-client audit ", {"verify", "fetch", "compare"}),
        ("moma_client.cli.main", "moma-client predict --fo", {"--force"}),
        ("moma_server.cli.main", "moma-server teacher tr", {"train"}),
    ],
)
def test_a_word_is_completed(
    tmp_path: Path, module: str, line: str, words: set[str]
) -> None:
    completed = tmp_path / "completed"
    environment = os.environ | {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(completed),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }

    subprocess.run(
        [sys.executable, "-m", module], env=environment, check=True, timeout=60
    )

    assert words <= {word.strip() for word in completed.read_text().split("\n")}
