"""What another site exported, and what was left in a folder of outputs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moma_client.identity.state_owner import check_owner
from moma_client.student.files import read_card
from moma_client.student.slides.predict import _finished
from moma_core.pki.identity import PeerName
from tests.unit.bad_input.table import BadInput, written
from tests.unit.client.student.test_files import CARD

_OWN = PeerName("moma", "site", "site-a")


def _student(name: str, content: bytes | dict[str, Any], says: str) -> BadInput:
    if isinstance(content, dict):
        content = json.dumps(asdict(CARD) | content).encode()

    def read(path: Path) -> object:
        return read_card(path.parent)

    says = f"./student.json is no student card: {says}"
    return BadInput(name, written(read, "student.json", content), says)


STUDENTS = (
    _student(
        "a student of views of a megapixel a side",
        {"view_size_px": 1_000_000},
        "view_size_px is 1 to 4096, got 1000000",
    ),
    _student(
        "a student that divides by nothing",
        {"std": [0, 1, 1]},
        "std is out of range",
    ),
    _student(
        "a student with a class twice",
        {"class_names": ["benign", "benign"]},
        "it names no class, or one twice",
    ),
    _student(
        "a student with a class that commands a terminal",
        {"class_names": ["benign", "\x1b[2J"]},
        r"the class '\x1b[2J' has letters that are no UTF-8 or cannot be printed: "
        "rename it",
    ),
    _student(
        "a student's card that is no JSON",
        b"\xff",
        "(file): Invalid JSON: expected value at line 1 column 1",
    ),
    _student(
        "a student's card of ten megabytes",
        b" " * (10 << 20),
        "it is too large for one",
    ),
    BadInput(
        "a summary of a slide that is a list",
        written(
            lambda path: _finished(path.parent, "f", overwrites=False),
            "summary.json",
            "[]",
        ),
        ". holds outputs of another student, slide or other options: name another "
        "folder, or add --force",
    ),
    BadInput(
        "a mark of a state_dir without an end",
        written(
            lambda path: check_owner(path.parent, _OWN), "site.json", "[" * 100_000
        ),
        "cannot read ./site.json, which says whose this state_dir is: it is nested too "
        "deeply",
    ),
)
