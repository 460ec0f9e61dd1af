"""What a report says of whom the data name, and of whom they do not."""

import pytest

from moma_client.reports.student_report.sentences import (
    interval_means,
    origin,
    splits_differ,
)
from moma_core.evaluation.embedding_map import Leak


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
