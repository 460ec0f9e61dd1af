"""A reference patch is told and compared as the teacher's policy leaves it."""

from dataclasses import replace
from pathlib import Path

import pytest

from moma_client.teacher.connect import open_teacher
from moma_core.errors import MismatchError
from moma_core.policy.outputs import OutputPolicy
from moma_core.policy.policy import PolicyEnforcer, TeacherPolicy
from moma_core.teacher.card.card import TeacherCard, first_violation
from moma_core.teacher.card.reference_patch import floats_of
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import CachedSite, Quarters, teaching
from tests.support.site.reference_patch_site import GOLDEN_CARD, OtherQuarters, vet


def _shown(site: CachedSite) -> TeacherCard:
    with open_teacher(site.config, stop=site.stop, metrics=site.metrics) as teacher:
        return teacher.describe()


@pytest.mark.parametrize(
    "outputs",
    [
        OutputPolicy(embedding=False),
        OutputPolicy(logits=False),
        OutputPolicy(top_k=1),
        OutputPolicy(top_k=1, precision="bfloat16"),
    ],
    ids=lambda outputs: f"{outputs.text} {outputs.precision}",
)
def test_a_site_knows_its_teacher_by_what_the_policy_tells(
    tmp_path: Path, outputs: OutputPolicy
) -> None:
    pki, rules = Pki(), PolicyEnforcer(TeacherPolicy(outputs=outputs))
    honest = Quarters(GOLDEN_CARD)
    with teaching(tmp_path, pki, backend=honest, rules=rules) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        card = _shown(site)
        vet(site, card)

    golden = card.golden
    assert golden is not None
    assert bool(floats_of(golden.embedding).size) == outputs.embedding
    assert bool(floats_of(golden.logits).size) == outputs.logits

    other = OtherQuarters(GOLDEN_CARD)
    if outputs.embedding:  # which is where it differs
        with teaching(tmp_path, pki, backend=other, rules=rules) as served:
            site = CachedSite(tmp_path / "another", pki, served.port)
            with pytest.raises(MismatchError, match="reference patch, embedding"):
                vet(site, card)


def test_a_card_that_withholds_what_it_says_it_tells_is_none() -> None:
    golden = GOLDEN_CARD.golden
    assert golden is not None
    silent = replace(GOLDEN_CARD, golden=replace(golden, embedding=""))

    assert first_violation(silent) == "golden.embedding has 0 values, 12 are due"
