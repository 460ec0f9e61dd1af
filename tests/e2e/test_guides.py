"""The guides, followed as they stand: one federation, each party by its own page.

A block's mark says when its party does it; what the page says is to be written into a
config file is written there. Networks and plans are made small, and ports free.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.machine.ports import free_port
from tests.support.machine.shell import marked_blocks, run_blocks, written_blocks

_PROJECT = Path(__file__).resolve().parents[2]
_GUIDES = _PROJECT / "docs" / "guides"
_STORY = ("coordinator", "teacher-owner", "site-operator", "auditor")
_SECONDS = 600

_MODEL = {"architecture": "test_efficientnet", "weights": "random"}
_TRAINING = {"batch_size": 16, "threads": 1, "accelerator": "cpu"}
_SMALL: dict[str, dict[str, Any]] = {
    "coordinator/server.yaml": {
        "coordinator": {"plan": {"rounds": 1, "local_steps": 2, "poll_seconds": 0.3}}
    },
    "teacher/recipe.yaml": {
        "epochs": 1,
        "view_size_px": 32,
        "model": _MODEL,
        "training": _TRAINING,
    },
    "teacher/server.yaml": {"teacher": {"threads": 1}},
    "site-a/config.yaml": {
        "view_size_px": 32,
        "student": _MODEL,
        "training": _TRAINING,
        "distillation": {"feature_length": 32, "bank_size": 256},
        "data": {"keep_labelled": 24},
    },
}

# Writes YAML into a config file, section by section; null takes a key out.
_MERGE = """
import json, sys, yaml
from pathlib import Path
def merge(values, given):
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict) and (
            key != "data" or "kind" not in value
        ):
            merge(values[key], value)
        else:
            values[key] = value
path = Path(sys.argv[1])
values = yaml.safe_load(path.read_text())
merge(values, json.loads(sys.argv[2]))
path.write_text(yaml.safe_dump(values))
"""

# What the operator does between two blocks of the site's page: doctor printed the line.
_ACCEPT = r"""
for n in $(seq 60); do
    terms=$({ moma-client doctor --site site-a/config.yaml || true; } \
        | grep --only-matching 'accepted_terms: .*' | grep -oE '[0-9a-f]{64}') && break
    sleep 2
done
"$PYTHON" merge.py site-a/config.yaml '{"teacher": {"accepted_terms": "'$terms'"}}'
"""

# Ports that are free here, in place of those that the pages name.
_PRELUDE = """
moma-server() {
    if [ "$1" = init ]; then set -- "$@" $SERVER_PORTS; fi
    command moma-server "$@"
}
moma-client() {
    if [ "$1" = init ]; then set -- "$@" $CLIENT_PORTS; fi
    command moma-client "$@"
}
"""


def _steps(ports: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yields when and what: shell blocks, and what is written into config files."""
    for name in _STORY:
        page = _GUIDES / f"{name}.md"
        blocks = [(place, when, text) for place, when, text in written_blocks(page)]
        for place, mark, text in blocks:
            when, _, before = mark.partition(", ")
            if place is not None:
                given = json.dumps(yaml.safe_load(text))
                small = json.dumps(_SMALL[place])
                text = f"\"$PYTHON\" merge.py {place} '{given}'\n"
                text += f"\"$PYTHON\" merge.py {place} '{small}'\n"
            if before == "not ready":
                text = f"{{ {text} }} || true\n"
            yield when, (_ACCEPT if before == "accept" else "") + _moved(text, ports)


def _moved(text: str, ports: dict[str, int]) -> str:
    for usual, free in ports.items():
        text = text.replace(f":{usual}", f":{free}")
    return text.replace("  # wait until it says", "  # it says")


@pytest.mark.slow
@pytest.mark.timeout(1800)  # on a busy machine
def test_each_party_gets_to_its_end_by_its_page_alone(tmp_path: Path) -> None:
    ports = {usual: free_port() for usual in ("8443", "8444", "8445")}
    (tmp_path / "merge.py").write_text(_MERGE, "utf-8")
    steps = sorted(_steps(ports), key=lambda step: int(step[0]))

    status, said = run_blocks(
        _PRELUDE + "\n".join(text for _, text in steps),
        tmp_path,
        seconds=_SECONDS,
        environment={
            "PYTHON": sys.executable,
            "COORDINATOR": "127.0.0.1",
            "TEACHER": "127.0.0.1",
            "CLIENT_PORTS": f"--metrics-port 0 --enrolment 127.0.0.1:{ports['8445']}",
            "SERVER_PORTS": f"--rounds-port {ports['8443']} --teacher-port "
            f"{ports['8444']} --enrolment-port {ports['8445']} --metrics-port 0",
        },
    )

    assert status == 0, said
    assert "verified: " in said
    assert (tmp_path / "student-report" / "report.html").exists()
    assert (tmp_path / "run-report" / "report.html").exists()
    assert json.loads((tmp_path / "found.json").read_text())["verified"]


def test_the_researchers_page_makes_its_tables(tmp_path: Path) -> None:
    (block,) = dict(marked_blocks(_GUIDES / "researcher.md")).values()

    status, said = run_blocks(
        block, tmp_path, seconds=120, environment={"PYTHONPATH": str(_PROJECT)}
    )

    assert status == 0, said
