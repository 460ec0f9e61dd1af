import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.machine.needs import needs_program

UNITS = Path(__file__).resolve().parents[3] / "deploy" / "systemd"

_MOST_EXPOSED = "20"  # of 100, by systemd's own measure
_WALLS = {
    "CapabilityBoundingSet=",
    "NoNewPrivileges=yes",
    "PrivateTmp=yes",
    "ProtectHome=yes",
    "ProtectSystem=strict",
    "StateDirectoryMode=0700",
    "UMask=0077",
}


@pytest.fixture(params=["moma-server", "moma-client"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit whose programs are those that are installed here."""
    name = f"{request.param}.service"
    text = (UNITS / name).read_text("utf-8")
    here = text.replace("/opt/moma/bin", str(Path(sys.executable).parent))
    path = tmp_path / name
    path.write_text(here, "utf-8")
    return path


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    (program,) = needs_program("systemd-analyze")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_systemd_understands_the_unit(unit: Path) -> None:
    found = _analyze("verify", "--man=no", str(unit))

    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_systemd_finds_the_unit_well_guarded(unit: Path) -> None:
    found = _analyze(
        "security", "--offline=true", f"--threshold={_MOST_EXPOSED}", str(unit)
    )

    assert found.returncode == 0, found.stdout + found.stderr


def test_the_unit_has_its_walls_and_no_other_user(unit: Path) -> None:
    lines = set(unit.read_text("utf-8").splitlines())

    assert lines >= {*_WALLS, f"User={unit.stem}", f"StateDirectory={unit.stem}"}
