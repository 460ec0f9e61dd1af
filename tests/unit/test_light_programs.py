"""What a program loads at its start: each library costs time, and memory for good."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("modules", "spared"),
    [
        ("moma_server.app, moma_server.teacher.server", "matplotlib"),
        ("moma_server.dashboard.view", "matplotlib"),
        ("moma_client.site.app, moma_client.student.launch", "sqlalchemy"),
        ("moma_client.federation.process", "sqlalchemy"),
    ],
)
def test_a_program_loads_no_library_that_only_others_need(
    modules: str, spared: str
) -> None:
    program = f"import sys, {modules}; print({spared!r} in sys.modules)"

    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert ended.stdout.strip() == "False"
