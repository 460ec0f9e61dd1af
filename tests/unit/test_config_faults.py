"""What an operator reads of a config file that is wrong."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from moma_core.config import Section, read_config_file, unreadable, validated
from moma_core.errors import ConfigError
from moma_core.training.settings import TrainingSettings


class _Near(Section):
    kind: Literal["near"]
    path: str = "x"


class _Far(Section):
    kind: Literal["far"]
    address: str = Field(pattern="^[a-z]+:[0-9]+$", description="host:port of it.")
    views: int = Field(default=4, ge=0)


class _Item(Section):
    weight: float = 1.0


class _File(Section):
    foreign_keys = {"epochs": "the plan decides it"}  # noqa: RUF012

    teacher: Annotated[_Near | _Far, Field(discriminator="kind")]
    items: tuple[_Item, ...] = ()
    sites: dict[str, int] | None = None
    mean: tuple[float, float] | None = None
    is_on: bool = False
    database: str | None = Field(default=None, pattern="^sqlite")


FAR = {"kind": "far", "address": "host:1"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"teacher": FAR | {"vews": 1}}, "unknown key teacher.vews; did you mean v"),
        ({"teacher": FAR | {"zzz": 1}}, "unknown key teacher.zzz; known here: address"),
        ({"teacher": FAR, "weight": 1}, "unknown key weight; it is items.weight"),
        ({"teacher": FAR | {"weight": 1}}, "unknown key teacher.weight; it is items"),
        ({"teacher": FAR | {"items": []}}, "unknown key teacher.items; it is items"),
        ({"teacher": FAR, "epochs": 5}, "unknown key epochs: the plan decides it"),
        ({"teacher": FAR, "techer": 1}, "unknown key techer; did you mean teacher?"),
        (
            {"teacher": FAR | {"views": "many"}},
            "teacher.views is 'many': write a whole number",
        ),
        (
            {"teacher": FAR | {"views": False}},  # as YAML reads off
            "teacher.views is 'off, no or false': write a whole number",
        ),
        (
            {"teacher": FAR, "items": [{"weight": True}]},
            "items.0.weight is 'on, yes or true': write a number",
        ),
        (
            {"teacher": FAR, "sites": {"a": 1, "b": True}},
            "sites.b is 'on, yes or true': write a whole number",
        ),
        (
            {"teacher": FAR, "mean": [0.5, False]},
            "mean.1 is 'off, no or false': write a number",
        ),
        ({"teacher": FAR | {"views": -1}}, "teacher.views is -1: write 0 or more"),
        (
            {"teacher": FAR | {"address": "host"}},
            "teacher.address is 'host': it should be of the form ^[a-z]+:[0-9]+$ "
            "(host:port of it)",
        ),
        ({"teacher": {"kind": "far"}}, "the key teacher.address is missing (host:port"),
        ({"teacher": {}}, "the key teacher.kind is missing"),
        ({"teacher": {"kind": "for"}}, "teacher.kind is 'for': 'near', 'far' fit"),
        ({"teacher": 1}, "teacher is 1: it should be"),
        ({}, "the key teacher is missing"),
        (
            {"teacher": FAR, "items": [{}, {"weigth": 2}]},
            "unknown key items.1.weigth; did you mean weight?",
        ),
        (
            {"teacher": FAR, "database": "postgres://me:secret@host/x"},
            "database is 'postgres://...@host/x'",
        ),
    ],
)
def test_a_broken_rule_is_a_sentence_with_key_and_value(
    values: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        validated(_File, values, Path("server.yaml"))

    head, rule = str(error.value).splitlines()
    assert head == "server.yaml is not valid:"
    assert rule.strip().startswith(said)


def test_where_words_are_taken_as_well_a_truth_is_no_number() -> None:
    with pytest.raises(ConfigError, match="'off, no or false': write a whole number"):
        validated(TrainingSettings, {"workers": False}, Path("config.yaml"))


def test_a_truth_is_taken_where_one_is_due() -> None:
    values = {"teacher": FAR, "is_on": True, "sites": {"a": 1}}

    assert validated(_File, values, Path("server.yaml")).is_on


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a:\n\tb: 1\n", "x.yaml: line 2, column 1: a tab stands where YAML wants"),
        ('a: "C:\\data"', "a backslash is no letter of a path; use single quotes"),
        ("a: [", "x.yaml: line 1, column 5: "),
        ("\x00", "x.yaml: unacceptable character #x0000"),
    ],
)
def test_a_file_that_is_no_yaml_is_one_line_with_the_place(
    content: str, said: str
) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        yaml.safe_load(content)

    text = str(unreadable(Path("x.yaml"), caught.value))

    assert said in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: {b: 1}\nc: 1\nb: 2\nc: 3\n", "line 4: c was said in line 2 already"),
        (b"a:\n- {d: 1}\n- e: 1\n  e: 2\n", "line 4: e was said in line 3 already"),
        (b"{f: 1, f: 2}", "line 1: f was said in line 1 already"),
        ("a: für".encode("latin-1"), "no UTF-8: save it in this encoding"),
    ],
)
def test_a_file_that_says_a_key_twice_or_is_no_utf_8_is_refused(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=said):
        read_config_file(path, yaml.safe_load, yaml.compose)


def test_equal_keys_of_two_sections_and_aliases_are_no_repetition(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &a {b: 1}\nc: {b: 2, d: *a}\ne: [*a, {b: 1}]\n")

    assert read_config_file(path, yaml.safe_load, yaml.compose)


def test_a_folder_for_a_config_file_is_told_which_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it is a folder: .*config\.yaml"):
        read_config_file(tmp_path, yaml.safe_load, yaml.compose)


def test_keys_that_a_terminal_would_obey_are_shown_as_blanks() -> None:
    with pytest.raises(ConfigError) as error:
        validated(_File, {"teacher": FAR, "\x1b[2J": 1}, Path("server.yaml"))

    assert "unknown key  [2J" in str(error.value)


def test_many_and_long_faults_are_cut() -> None:
    values = {"teacher": FAR} | {f"{n}" + "x" * 1000: 1 for n in range(50)}

    with pytest.raises(ConfigError) as error:
        validated(_File, values, Path("server.yaml"))

    lines = str(error.value).splitlines()
    assert len(lines) == 22
    assert max(map(len, lines)) < 700
    assert lines[-1].strip() == "and 30 more"
