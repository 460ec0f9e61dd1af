from dataclasses import replace
from pathlib import Path

import pytest

from moma_client.teacher.onboarding import audit_sentence
from moma_core.teacher.card.card import TeacherCard
from tests.support.site.tiny_site import write_teacher


@pytest.mark.parametrize(
    ("audited", "expected"),
    [(None, "none on its card"), (0.1375, "advantage 0.138"), (0.0, "advantage 0.000")],
)
def test_a_site_is_told_what_the_card_says_of_membership(
    tmp_path: Path, audited: float | None, expected: str
) -> None:
    replace(write_teacher(tmp_path), membership_advantage=audited).save(
        tmp_path / "card.json"
    )

    card = TeacherCard.load(tmp_path / "card.json")

    assert expected in audit_sentence(card)


def test_a_card_from_before_the_audit_is_still_read(tmp_path: Path) -> None:
    card = write_teacher(tmp_path)
    path = tmp_path / "card.json"
    lines = path.read_text("utf-8").replace(',\n  "membership_advantage": null', "")
    path.write_text(lines, "utf-8")

    assert "membership" not in lines
    assert TeacherCard.load(path) == card
