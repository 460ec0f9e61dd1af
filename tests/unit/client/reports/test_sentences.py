"""What a report says of its data and its teacher, and of who is not named."""

from dataclasses import replace
from pathlib import Path

import pytest

from moma_client.reports.student_report.facts import ReportOptions, gather_facts
from moma_client.reports.student_report.sentences import (
    interval_means,
    origin,
    splits_differ,
    trained,
)
from moma_client.student.files import CARD, read_card
from moma_core.evaluation.embedding_map import Leak
from tests.support.site.reported_site import RUN, reported_site


def leak(counted: str) -> str:
    return origin(Leak(0.77, 0.5, (0.69, 0.84), 117, 12, counted=counted))


@pytest.mark.parametrize(
    ("counted", "neighbours", "of", "therefore"),
    [
        ("patients", " and of other patients, wh", " of 12 patients)", "expect other"),
        ("slides", " and of other slides, whether", " of 12 slides)", "or the patient"),
        ("patches", ", whether a patch is of the", " patches).", "or the patient"),
        (
            "patients and patches",
            " and of other patients where they are named, whether",
            " of 12 patients and patches)",
            "or the patient",
        ),
    ],
)
def test_neighbours_are_of_other_patients_only_where_these_are_named(
    counted: str, neighbours: str, of: str, therefore: str
) -> None:
    said = leak(counted)

    assert f"By its nearest patches of the same class{neighbours}" in said
    assert f"117 patches{of.removeprefix(' patches')}" in said
    assert therefore in said


def test_parts_and_intervals_are_of_patients_only_where_these_are_named() -> None:
    assert splits_differ("patients").startswith("Patches of different patients: ")
    assert "one may be in several of them" not in splits_differ("patients")
    for counted in ("slides", "patches", "patients and slides"):
        assert "different patients" not in splits_differ(counted)
        assert "one may be in several of them" in splits_differ(counted)
    assert interval_means("patients").startswith("Patients are drawn anew")
    assert interval_means("patches").startswith("Patches are drawn anew a thousand ti")


def test_a_student_that_fell_back_is_not_said_to_have_learned_from_a_teacher(
    tmp_path: Path,
) -> None:
    config = reported_site(tmp_path)
    folder = config.state_dir / "runs" / RUN / "moma"
    fell_back = replace(
        read_card(folder),
        teacher="",
        teacher_digest="",
        teacher_licence=None,
        scenario="irrelevant (another organ)",
    )
    (folder / CARD).write_text(fell_back.to_json())

    said = " ".join(trained(gather_facts(config, ReportOptions())))

    assert "moma learned from these labels alone, as ce does" in said
    assert "the scenario was irrelevant (another organ)" in said
    assert "patches of this site went there" not in said
    assert "what the teacher is worth" not in said
