"""What reads arguments and a config must not load what only a run needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.site.tiny_site import local_config

HEAVY = (
    "torch",
    "timm",
    "flwr",
    "grpc",
    "lightning_fabric",
    "uvicorn",
    "starlette",
)

_PROGRAM = """
import contextlib, json, sys
from moma_client.cli.main import main
with contextlib.suppress(SystemExit):
    main(sys.argv[2:])
print(json.dumps([name for name in json.loads(sys.argv[1]) if name in sys.modules]))
"""


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "plan --help",
        "--site {config} --check",
        "--site {wrong} --check",
        "--site {wrong}",
        "init {folder} --name site-b",
        "egress --log --site {config}",
        "audit verify --site {config}",
    ],
)
def test_no_command_loads_what_only_a_run_needs(tmp_path: Path, words: str) -> None:
    local_config(tmp_path)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((tmp_path / "config.yaml").read_text() + "sudent: {}\n")
    places = {
        "config": tmp_path / "config.yaml",
        "wrong": wrong,
        "folder": tmp_path / "new",
    }
    arguments = [word.format(**places) for word in words.split()]

    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(HEAVY), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(ended.stdout.splitlines()[-1]) == []
