"""What a report concludes from figures: hard where they are, silent where they are."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from moma_client.reports.student_report.conclusions import in_short
from moma_client.reports.student_report.facts import (
    Calibration,
    ReportFacts,
    ReportOptions,
    gather_facts,
)
from moma_client.reports.student_report.trust import State
from moma_core.evaluation.calibration import Temperature
from moma_core.evaluation.comparison import Difference
from moma_core.evaluation.figures import Figure
from tests.support.site.reported_site import CLASSES, reported_site


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> ReportFacts:
    """A student that says one of three classes of every patch."""
    config = reported_site(tmp_path_factory.mktemp("site"))
    return gather_facts(config, ReportOptions())


def concluded(facts: ReportFacts) -> list[str]:
    return [each.replace("\N{NO-BREAK SPACE}", " ") for each in in_short(facts)]


def judged(facts: ReportFacts, *states: State) -> ReportFacts:
    each = zip(facts.trust, states, strict=True)
    return replace(facts, trust=tuple(t._replace(state=s) for t, s in each))


def with_figures(
    facts: ReportFacts, method: str, figures: Mapping[str, Figure]
) -> ReportFacts:
    student = facts.students[method]
    found = student.splits[facts.split]
    measured = found._replace(figures={**found.figures, **figures})
    splits = {**student.splits, facts.split: measured}
    students = {**facts.students, method: replace(student, splits=splits)}
    return replace(facts, students=students)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (
            ("relied", "not", "undecided"),
            "On 1 of 3 classes yes: {0}. Not on {1}. Too few patches or patients to "
            "say of {2}.",
        ),
        (("relied",) * 3, "Yes, on all 3 classes: {0}, {1}, {2}."),
        (
            ("not", "not", "untested"),
            "On none of 3 classes may moma be trusted so far. Not on {0}, {1}. Not "
            "tested: {2}.",
        ),
    ],
)
def test_the_first_sentence_answers_the_title(
    facts: ReportFacts, states: tuple[State, ...], expected: str
) -> None:
    assert concluded(judged(facts, *states))[0] == expected.format(*CLASSES)


@pytest.mark.parametrize(
    ("value", "interval", "expected"),
    [
        (0.30, None, "the student is no better than that"),
        (0.90, None, "these patches do not show that the student is better than that"),
        (0.40, (0.2, 0.6), "these patches do not show that the student is better"),
        (0.20, (0.1, 0.3), "the student is worse than that"),
        (0.60, (0.5, 0.7), "the student is better than that"),
    ],
)
def test_a_student_is_held_against_the_most_frequent_class(
    facts: ReportFacts,
    value: float,
    interval: tuple[float, float] | None,
    expected: str,
) -> None:
    accuracy = Figure(value, 63, 7, interval)
    said = concluded(with_figures(facts, "moma", {"accuracy": accuracy}))[1]

    assert f"most frequent class each time would be right in 33 %: {expected}" in said


def test_a_student_that_says_one_class_of_everything_is_said_to_be_no_better(
    facts: ReportFacts,
) -> None:
    said = concluded(facts)

    assert said[0].startswith("On none of 3 classes may moma be trusted so far. Not on")
    assert "undecided" not in {each.state for each in facts.trust}
    assert said[1].endswith("the student is no better than that.")


def test_a_difference_without_an_interval_concludes_nothing(facts: ReportFacts) -> None:
    few = "patients: 1, at least 5 are needed"
    own, other = (Figure(value, 70, 1, None, few) for value in (0.276, 1.0))
    found = with_figures(facts, "moma", {"macro_f1": own})
    found = with_figures(found, "ce", {"macro_f1": other})
    apart = {"ce": {"macro_f1": Difference(-0.724, None)}}

    said = " ".join(concluded(replace(found, differences=apart)))

    assert (
        "Which of moma (macro-F1 0.276) and ce (1.000) is better cannot be concluded: "
        "the difference has no interval (patients: 1, at least 5 are needed)."
    ) in said
    assert "no sure difference" not in said


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((0.18, None), (0.25, None), "by 0.250: worse on these patches, with no inter"),
        ((0.18, None), (0.12, None), "by 0.120: better on these patches, with no int"),
        ((0.18, (0.1, 0.2)), (0.28, (0.25, 0.3)), "by 0.280: worse. Predict and the"),
        ((0.18, (0.1, 0.2)), (0.05, (0.02, 0.08)), "by 0.050: better. Predict and the"),
        ((0.18, (0.1, 0.2)), (0.15, (0.08, 0.19)), "by 0.150: no clear change. Pred"),
    ],
)
def test_a_temperature_is_said_to_worsen_what_it_worsens(
    facts: ReportFacts,
    before: tuple[float, tuple[float, float] | None],
    after: tuple[float, tuple[float, float] | None],
    expected: str,
) -> None:
    figures = [Figure(value, 63, 7, interval) for value, interval in (before, after)]
    calibration = Calibration(
        Temperature(0.33),
        is_on_card=True,
        before={facts.split: figures[0]},
        after={facts.split: figures[1]},
    )
    found = {**facts.calibrations, "moma": calibration}

    said = concluded(replace(facts, calibrations=found))[-1]

    assert "with the temperature 0.33, fitted on validation patches" in said
    assert expected in said


def test_a_temperature_of_1_is_said_to_change_nothing(facts: ReportFacts) -> None:
    found = facts.calibrations["moma"]
    same = Calibration(Temperature(1.0), True, found.before, found.before)

    said = concluded(replace(facts, calibrations={"moma": same}))[-1]

    assert said.endswith("so they stay as trained.")
