"""A student that another site exported: its card is what that site likes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from moma_client.student.files import load_student, read_card
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import ConfigError
from tests.unit.client.student.test_files import CARD


@pytest.mark.parametrize(
    "card",
    [
        {"view_size_px": 10**6},
        {"view_size_px": 0},
        {"patch_size_px": 10**9},
        {"projected_length": 10**12},
        {"resolution_mpp": float("nan")},
        {"resolution_mpp": 0.0},
        {"temperature": float("inf")},
        {"temperature": -1.0},
        {"class_names": ()},
        {"class_names": ("a", "a")},
        {"class_names": ("a", "\x1b[2J")},
        {"class_names": ("a", "x" * 10_000)},
        {"class_names": tuple(map(str, range(20_000)))},
        {"mean": (float("nan"), 0.0, 0.0)},
        {"std": (0.0, 1.0, 1.0)},
        {"stain_normalisation": {"method": "macenko", "first": (), "second": (1.0,)}},
    ],
    ids=lambda card: next(iter(card)),
)
def test_a_card_of_numbers_that_no_student_has_is_refused(
    tmp_path: Path, card: dict[str, Any]
) -> None:
    (tmp_path / "student.json").write_text(json.dumps(asdict(CARD) | card))

    with pytest.raises(ConfigError, match="is no student card") as error:
        read_card(tmp_path)

    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b"{}", b" " * (9 << 20), b'"\x1b[2J"']
)
def test_what_is_no_card_at_all_is_one_short_sentence(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "student.json").write_bytes(content)

    with pytest.raises(ConfigError, match="is no student card") as error:
        read_card(tmp_path)

    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


def test_a_card_that_fills_the_memory_is_not_read_for_its_signature_either(
    tmp_path: Path,
) -> None:
    (tmp_path / "student.json").write_bytes(b" " * (9 << 20))
    (tmp_path / "student.json.sig").write_text("00")

    with pytest.raises(ConfigError, match="it is too large for one"):
        load_student(tmp_path, SigningKey.create().public)
