"""Names of classes in keys, and figures as text and JSON."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moma_core.evaluation.figures import Evaluation, Figure, class_keys, of_groups
from moma_core.federation.disclosure import figure_name


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (("Benign", "Low grade", "G-5"), ("benign", "low_grade", "g_5")),
        (("良性", "恶性", "間質"), ("class_1", "class_2", "class_3")),
        (("benign", "G3+4", "G3-4"), ("benign", "class_2", "class_3")),
        (("grade 3", "Grade-3"), ("class_1", "class_2")),
        (("class 2", "!"), ("class_1", "class_2")),
        (("tumour", "良性"), ("tumour", "class_2")),
    ],
)
def test_a_classes_key_is_its_name_or_its_number(
    names: tuple[str, ...], keys: tuple[str, ...]
) -> None:
    assert class_keys(names) == keys


_NAME = st.one_of(
    st.text(max_size=8),
    st.integers(1, 6).map(lambda number: f"Class {number}"),
    st.sampled_from(["G3+4", "G3-4", "良性", ""]),
)


@settings(deadline=None)
@given(st.lists(_NAME, min_size=1, max_size=6, unique=True))
def test_no_two_classes_share_a_key_and_each_is_a_figures(names: list[str]) -> None:
    keys = class_keys(names)

    assert len(set(keys)) == len(names)
    for key in keys:
        found = figure_name(f"validation_recall_{key}")
        assert found is not None
        assert found.of_class == key


def test_json_has_the_classes_own_names_and_null_for_what_is_not_there() -> None:
    found = Evaluation(
        {
            "auroc": Figure(None, 9, 9, None, "one class alone: 良性"),
            "recall_class_1": Figure(0.75, 9, 9, (0.5, 0.9)),
        },
        patches=9,
        groups=9,
        class_names={"class_1": "良性", "b": "b"},
    )

    values = json.loads(json.dumps(found.as_json(), allow_nan=False))

    assert values["recall"] == {"良性": 0.75}
    assert values["class_keys"] == {"良性": "class_1", "b": "b"}
    assert values["figures"]["auroc"]["value"] is None
    assert values["figures"]["auroc"]["reason"] == "one class alone: 良性"
    assert values["figures"]["recall_class_1"]["low"] == 0.5


def test_a_line_has_n_interval_and_the_class_as_it_is_written() -> None:
    found = Evaluation(
        {
            "accuracy": Figure(0.5, 20, 4, None, "patients: 4, at least 5 are needed"),
            "auroc": Figure(None, 20, 4, None, "one class alone: G3+4"),
            "recall_class_2": Figure(0.75, 9, 9, (0.5, 0.9)),
        },
        class_names={"class_1": "G3-4", "class_2": "G3+4"},
    )

    assert list(found.lines("unseen_")) == [
        "unseen_accuracy  0.500  no interval: patients: 4, at least 5 are needed  n=20",
        "unseen_auroc  none: one class alone: G3+4",
        "unseen_recall_class_2  0.750  95 % 0.500 to 0.900  n=9  class G3+4",
    ]


def test_all_of_it_is_printed_with_what_was_drawn_or_why_there_is_nothing() -> None:
    figures = {"accuracy": Figure(0.75, 9, 3, (0.5, 0.9))}
    none = {"accuracy": Figure(None, 0, 0, None, "there is no labelled patch")}

    assert str(Evaluation(figures, 9, 3, "patients")).splitlines() == [
        "accuracy  0.750  95 % 0.500 to 0.900  n=9",
        "intervals by drawing 3 patients",
    ]
    assert str(Evaluation(none)) == "no figure: there is no labelled patch"


@pytest.mark.parametrize(
    ("groups", "counted", "expected"),
    [
        (1, "patients", " of 1 patient"),
        (7, "slides", " of 7 slides"),
        (2, "patients and slides", " of 2 patients and slides"),
        (70, "patches", ""),
    ],
)
def test_one_patient_is_no_plural_and_patches_are_of_nobody(
    groups: int, counted: str, expected: str
) -> None:
    assert of_groups(groups, counted) == expected
