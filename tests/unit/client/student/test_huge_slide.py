"""A slide of 40,000 px a side: how much memory it takes, and a kill in its midst."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from moma_client.student.files import save_student
from moma_core.models.backbone import Backbone
from tests.support.slides.pictures import painted
from tests.unit.client.student.test_files import CARD

_SIDE = 40_000
_LIMIT_KB = 2 * 1024 * 1024

_RUN = """
import resource, sys
from moma_client.cli.main import main
status = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""


def _huge(path: Path) -> Path:
    """Writes a pyramid of 40,000 px a side: a block of tissue, and glass."""
    tissue, glass = painted(512, 512)[150:406, 150:406], np.full((256, 256, 3), 244)
    glass = glass.astype(np.uint8)

    def tiles(side: int) -> Any:
        count = -(-side // 256)
        for number in range(count * count):
            down, right = divmod(number, count)
            inside = 0.3 < down / count < 0.7 and 0.2 < right / count < 0.9
            yield tissue if inside else glass

    keys: dict[str, Any] = {"dtype": np.uint8, "tile": (256, 256)}
    keys |= {"photometric": "rgb", "compression": "jpeg", "metadata": None}
    keys |= {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level, side in enumerate((_SIDE, _SIDE // 4, _SIDE // 16)):
            file.write(
                tiles(side), shape=(side, side, 3), subfiletype=int(level > 0), **keys
            )
    return path


def _watched(
    command: list[str], environment: dict[str, str], out: Path
) -> tuple[str, int, dict[str, int]]:
    """Runs a program; returns what it said, its status, and the chunks that it had."""
    watched: dict[str, int] = {}
    program = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True
    )
    while program.poll() is None:
        for path in (out / ".partial").glob("chunk-*.npz"):
            with suppress(FileNotFoundError):  # it ends in this moment
                watched[path.name] = path.stat().st_mtime_ns
        time.sleep(0.2)
    said, _ = program.communicate()
    return said, program.returncode, watched


@pytest.mark.slow
def test_a_slide_of_40000_px_stays_under_2_gb_and_resumes_after_a_kill(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    network = Backbone(CARD.architecture, 2)
    save_student(tmp_path / "student", network, CARD)
    slide, out = _huge(tmp_path / "huge.tif"), tmp_path / "out" / "huge"
    line = ["predict", "--student", tmp_path / "student", "--out", tmp_path / "out"]
    command = [sys.executable, "-c", _RUN, *map(str, [*line, "--mpp", "1", slide])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    program = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 240
    while not (out / ".partial" / "chunk-000001.npz").exists():
        assert program.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    program.send_signal(signal.SIGKILL)
    program.wait()
    kept = {
        path.name: path.stat().st_mtime_ns
        for path in (out / ".partial").glob("chunk-*.npz")
    }
    assert kept
    assert not (out / "summary.json").exists()

    said, status, watched = _watched(command, environment, out)

    assert status == 0
    assert {name: watched[name] for name in kept} == kept
    assert len(watched) > len(kept)
    assert int(said.split("peak ")[1]) < _LIMIT_KB
    summary = json.loads((out / "summary.json").read_text())
    assert summary["patches"] > 5000
