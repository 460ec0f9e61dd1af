"""Prints what the tests need of pyproject.toml, but for the packages that are named."""

import re
import sys
import tomllib
from pathlib import Path

_TESTS = {"hypothesis", "pytest", "pytest-timeout", "pytest-xdist"}


def requirements(without: set[str]) -> list[str]:
    """Returns the project's requirements and those of its tests."""
    text = Path(__file__).resolve().parents[1].joinpath("pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    tests = [r for r in project["optional-dependencies"]["dev"] if _of(r) in _TESTS]
    return [r for r in project["dependencies"] if _of(r) not in without] + tests


def _of(requirement: str) -> str:
    return re.split(r"[^\w-]", requirement)[0]


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(set(sys.argv[1:]))) + "\n")
