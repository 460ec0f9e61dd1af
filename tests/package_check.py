"""Looks into a wheel, then installs it in an empty environment and starts its programs.

    python tests/package_check.py dist/moma_service-0.1.0-py3-none-any.whl

The wheel alone is new in that environment: what it depends on is lent by this one.
"""

import configparser
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

PACKAGES = {"moma_core", "moma_proto", "moma_server", "moma_client"}
KEY = "ed25519:" + "5e" * 32  # of nobody
PROGRAMS = {
    "moma-server": "moma_server.cli.main:main",
    "moma-client": "moma_client.cli.main:main",
}
DATA = {
    "moma_client/templates/config.yaml",
    "moma_core/dashboard/static/dashboard.css",
    "moma_core/dashboard/static/dashboard.js",
    "moma_core/dashboard/static/icon.svg",
    "moma_core/dashboard/templates/fragment.html",
    "moma_core/dashboard/templates/page.html",
    "moma_core/dashboard/templates/parts.html",
    "moma_proto/bundle/thin_app.toml",
    "moma_server/templates/coordinator.yaml",
    "moma_server/templates/recipe.yaml",
    "moma_server/templates/server.yaml",
    "moma_server/templates/teacher.yaml",
}


def check_contents(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (info,) = {
            top for name in names if (top := name.split("/")[0]).endswith(".dist-info")
        }
        entry_points = archive.read(f"{info}/entry_points.txt").decode()

    tops = {name.split("/")[0] for name in names} - {info}
    assert tops == PACKAGES, f"the wheel's names are {sorted(tops)}"
    expected = DATA | {f"{package}/py.typed" for package in PACKAGES}
    assert expected <= names, f"the wheel lacks {sorted(expected - names)}"
    assert f"{info}/licenses/LICENSE" in names, "the wheel lacks its licence"
    parser = configparser.ConfigParser()
    parser.read_string(entry_points)
    assert dict(parser["console_scripts"]) == PROGRAMS, entry_points


def install(wheel: Path, environment: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    (lent,) = environment.glob("lib/python*/site-packages")
    (lent / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    run(*pip, "--quiet", "check")


def check_programs(environment: Path, folder: Path) -> None:
    """Every command runs in `folder`, so that nothing of the checkout is found."""
    bin_folder = environment / "bin"
    for package in sorted(PACKAGES):
        code = f"import {package}; print({package}.__file__)"
        found = run(bin_folder / "python", "-c", code, cwd=folder)
        assert Path(found).is_relative_to(environment), f"{package} comes from {found}"
    for program in PROGRAMS:
        usage = run(bin_folder / program, "--help", cwd=folder)
        assert usage.startswith(f"usage: {program}"), usage
    for line in (
        ("moma-server", "init", "server", "--roles", "coordinator"),
        ("moma-server", "--config", "server/server.yaml", "--check"),
        ("moma-client", "init", "site", "--name", "site-a", "--teacher-key", KEY),
        ("moma-client", "--site", "site/config.yaml", "--check"),
    ):
        run(bin_folder / line[0], *line[1:], cwd=folder)
    check_fresh_server(bin_folder / "moma-server", folder)


def check_fresh_server(program: Path, folder: Path) -> None:
    """A server of both roles says that its teacher is still to be made."""
    run(program, "init", "both", cwd=folder)
    checked = subprocess.run(
        [program, "--config", "both/server.yaml", "--check"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        timeout=600,  # on a busy machine
        check=False,
    )
    assert checked.returncode == 1, checked
    assert "cannot read the teacher card" in checked.stderr, checked.stderr


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Returns what a command printed; its errors go to the terminal."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,  # on a busy machine
        check=True,
    )
    return done.stdout.strip()


def main(wheel: Path) -> None:
    check_contents(wheel)
    with tempfile.TemporaryDirectory() as name:
        environment, folder = Path(name, "venv"), Path(name, "work")
        folder.mkdir()
        install(wheel, environment)
        check_programs(environment, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
