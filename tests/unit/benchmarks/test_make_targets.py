"""What the benchmarks' targets of make write to, by make's own account."""

import subprocess
from pathlib import Path

import pytest

_PROJECT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("target", "file"), [("bench-quality", "quality.csv"), ("soak", "soak.csv")]
)
@pytest.mark.parametrize("own", [None, "mine.csv"])
def test_a_benchmark_writes_to_its_own_file_or_to_the_one_that_is_named(
    target: str, file: str, own: str | None
) -> None:
    named = [f"RESULTS={own}"] if own else []

    told = subprocess.run(
        ["make", "--dry-run", target, *named],  # noqa: S607
        cwd=_PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert f"--results {own or f'benchmarks/results/{file}'}" in told
