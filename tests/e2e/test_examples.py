"""The examples run as they lie there, on the tissue that comes with scikit-image."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.timeout(1200)  # on a busy machine

_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_SECONDS = 1100


def _printed(script: Path, *arguments: str) -> dict[str, float]:
    command = [sys.executable, str(script), *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    assert found.returncode == 0, found.stderr
    rows = re.findall(r"^(\w+) (\d\.\d{3})  95 % .* n=\d+$", found.stdout, re.MULTILINE)
    return {method: float(figure) for method, figure in rows}


def test_a_teacher_is_distilled_and_compared_on_one_page() -> None:
    figures = _printed(_EXAMPLES / "distill.py", "--epochs", "1")

    assert list(figures) == ["teacher", "ce", "kd", "moma"]
    assert all(0 <= figure <= 1 for figure in figures.values())
    assert len((_EXAMPLES / "distill.py").read_text("utf-8").splitlines()) <= 60


def test_a_loss_of_ones_own_trains_a_student(tmp_path: Path) -> None:
    for name in ("distill.py", "my_loss.py"):
        text = (_EXAMPLES / name).read_text("utf-8")
        (tmp_path / name).write_text(text.replace('"epochs": 3', '"epochs": 1'))

    assert list(_printed(tmp_path / "my_loss.py")) == ["teacher", "cosine"]


def test_the_notebook_runs_from_top_to_bottom_and_shows_its_plots() -> None:
    notebook = nbformat.read(_EXAMPLES / "moma.ipynb", as_version=4)
    plots = _plots(notebook)
    for cell in notebook.cells:
        cell.source = cell.source.replace("epochs=10", "epochs=1")

    NotebookClient(notebook, timeout=_SECONDS, kernel_name="python3").execute()

    assert plots == _plots(notebook) == 3


def _plots(notebook: nbformat.NotebookNode) -> int:
    outputs = [each for cell in notebook.cells for each in cell.get("outputs", [])]
    return sum("image/png" in each.get("data", {}) for each in outputs)
