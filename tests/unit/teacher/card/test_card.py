from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moma_core.errors import ConfigError
from moma_core.teacher.card.card import TeacherCard, first_violation
from moma_core.teacher.card.licence import Licence, terms_digest, terms_lines
from moma_core.teacher.card.reference_patch import expect
from tests.support.teacher.teacher_server import CARD

LICENCE = Licence("CC-BY-NC-4.0", "line one\nline two", "for research alone")
GOLDEN = expect(np.ones(3, np.float32), np.ones(2, np.float32), precision="float32")
FULL = replace(
    CARD,
    stain="H&E",
    mpp=0.5,
    pooling="avg",
    budget_terms="by agreement",
    default_grant_patches=1000,
    licence=LICENCE,
    golden=GOLDEN,
)


def test_a_card_with_every_promise_survives_its_file(tmp_path: Path) -> None:
    FULL.save(tmp_path / "card.json")

    assert first_violation(FULL) is None
    assert TeacherCard.load(tmp_path / "card.json") == FULL


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mpp": 0.0}, "mpp"),
        ({"mpp": float("nan")}, "mpp"),
        ({"mpp": 1e9}, "mpp"),
        ({"outputs": ()}, "outputs"),
        ({"outputs": ("logits", "logits")}, "outputs"),
        ({"default_grant_patches": -1}, "default_grant_patches"),
        ({"stain": "H&E\x1b[2J"}, "stain has a character"),
        ({"pooling": "x" * 201}, "pooling has 201"),
        ({"budget_terms": "x" * 2001}, "budget_terms"),
        ({"licence": replace(LICENCE, name=" ")}, "licence.name is empty"),
        ({"licence": replace(LICENCE, text="x" * 20_001)}, "licence.text"),
        ({"licence": replace(LICENCE, text="\x1b]0;you agreed\x07")}, "licence.text"),
        ({"licence": replace(LICENCE, derived_models="\r")}, "licence.derived_models"),
        ({"golden": replace(GOLDEN, tolerance=10.0)}, "golden.tolerance"),
        ({"golden": replace(GOLDEN, tolerance=0.0)}, "golden.tolerance"),
        ({"golden": replace(GOLDEN, tolerance=float("nan"))}, "golden.tolerance"),
        ({"golden": replace(GOLDEN, seed=-1)}, "golden.seed"),
        ({"golden": replace(GOLDEN, embedding="AAAA")}, "golden"),
        ({"golden": replace(GOLDEN, logits=GOLDEN.embedding)}, "golden.logits has 3"),
        ({"golden": replace(GOLDEN, png="AAAA" * 2**20)}, "golden.png"),
        ({"golden": replace(GOLDEN, png="AAAA")}, "golden"),
    ],
)
def test_what_a_card_cannot_promise_is_named(fields: Any, named: str) -> None:
    fault = first_violation(replace(FULL, **fields))

    assert fault is not None
    assert named in fault


def test_a_file_with_such_a_promise_is_no_card(tmp_path: Path) -> None:
    replace(FULL, golden=replace(GOLDEN, tolerance=1.0)).save(tmp_path / "card.json")

    with pytest.raises(ConfigError, match=r"no teacher card: golden\.tolerance"):
        TeacherCard.load(tmp_path / "card.json")


@pytest.mark.parametrize(
    "other",
    [
        replace(LICENCE, name="MIT"),
        replace(LICENCE, text="line one\nline  two"),
        replace(LICENCE, derived_models="for nothing"),
        replace(LICENCE, may_publish=True),
        replace(LICENCE, may_sell=True),
        replace(LICENCE, forbids_derived_models=True),
    ],
)
def test_other_terms_have_another_digest(other: Licence) -> None:
    assert terms_digest("teacher-a", other) != terms_digest("teacher-a", LICENCE)


def test_the_digest_of_terms_stays_what_it_was() -> None:
    digest = terms_digest("teacher-a", LICENCE)

    assert digest != terms_digest("teacher-b", LICENCE)
    assert digest == "ae8f821cdda5555db0133f07d3e34a32156e31018f5131952c7e56c147c4aa58"
    assert any(digest in line for line in terms_lines("teacher-a", LICENCE))


@pytest.mark.parametrize(
    "fields",
    [
        {"licence": None},
        {"golden": None},
        {"outputs": ("embedding",)},
        {"budget_terms": ""},
        {"default_grant_patches": 5},
        {"momentum_sessions": True},
    ],
)
def test_policy_and_terms_make_no_other_model(fields: Any) -> None:
    assert FULL.is_same_model(replace(FULL, **fields))
    assert not FULL.is_same_model(replace(FULL, **fields, digest="1" * 64))
