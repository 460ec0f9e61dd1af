"""A whole site whose weights leave masked: training, key, update, all that leaves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from moma_core.end_to_end.signatures import SigningKey
from moma_core.federation.masked_sum import MaskingKey, Try, terms_of
from moma_core.federation.task import Masking, RoundKey, RoundTask
from moma_core.runtime.files import write_private
from tests.support.site.egress_site import EgressSite

TRAIN = RoundTask(
    kind="train",
    run="r1",
    round=1,
    rounds=2,
    local_epochs=1,
    mode="fedavg",
    masking=Masking(max_update_norm=100.0),
)
TRY_ID = "0123456789abcdef"
PARTNERS = {name: SigningKey.create() for name in ("site-b", "site-c")}

_TELLING_LETTERS = 6


@pytest.fixture
def site(tmp_path: Path) -> Iterator[EgressSite]:
    partners = {name: str(key.public) for name, key in PARTNERS.items()}
    site = EgressSite(tmp_path, coordinator={"masked_weights": {"partners": partners}})
    write_private(site.config.identity.signing_key, SigningKey.create().to_pem())
    with site:
        yield site


def _partners_keys(site: EgressSite) -> tuple[RoundKey, ...]:
    for_try = Try(site.config.federation, "r1", 1, TRY_ID, terms_of(TRAIN))
    return tuple(
        MaskingKey(for_try, name, key).public for name, key in PARTNERS.items()
    )


def test_no_weight_of_a_trained_student_leaves_without_a_mask(
    site: EgressSite,
) -> None:
    masking = Masking(max_update_norm=100.0, try_id=TRY_ID)
    first = site.asked(TRAIN)
    second = site.asked(replace(TRAIN, kind="keys", masking=masking))
    (own,) = _round_keys(second)
    group = (own, *_partners_keys(site))
    update = replace(
        TRAIN, kind="update", masking=masking.model_copy(update={"keys": group})
    )

    third = site.asked(update)

    student = load_file(
        site.config.state_dir / "runs" / "r1" / "moma" / "student.safetensors"
    )
    values = sum(array.size for array in student.values())
    assert len(third) > 8 * values
    assert all(
        f"{array.dtype}.{name}".encode() in third for name, array in student.items()
    )
    for array in student.values():
        content = array.tobytes()
        rows = {content[at : at + 16] for at in range(0, len(content) - 15, 16)}
        changing = {row for row in rows if len(set(row)) > 8}
        assert not [row for row in changing if row in first + second + third]
    told = (first + second + third).lower()
    # three letters stand in a hundred thousand masked bytes by chance
    secrets = [word for word in site.secrets() if len(word) >= _TELLING_LETTERS]
    assert secrets
    assert {word for word in secrets if word in told} == set()


def test_a_coordinator_that_asks_for_plain_weights_is_refused(
    site: EgressSite,
) -> None:
    sent = site.asked(replace(TRAIN, masking=None))

    assert b"weights may not leave this site" in sent
    assert site.blocked("weights") == 1


def test_a_group_of_strangers_is_refused_and_counted(site: EgressSite) -> None:
    masking = Masking(max_update_norm=100.0, try_id=TRY_ID)
    site.asked(TRAIN)
    (own,) = _round_keys(site.asked(replace(TRAIN, kind="keys", masking=masking)))
    dealt = tuple(
        key.model_copy(update={"signature": "00" * 64}) for key in _partners_keys(site)
    )
    group = masking.model_copy(update={"keys": (own, *dealt)})

    sent = site.asked(replace(TRAIN, kind="update", masking=group))

    assert b"the key of site-b is not signed by the pinned one" in sent
    assert site.blocked("group") == 1
    assert site.error is None


def test_a_student_that_was_planted_in_a_round_is_masked_for_no_other_start(
    site: EgressSite,
) -> None:
    """Its update would be what the coordinator chose, and the sum that of the rest."""
    masking = Masking(max_update_norm=100.0, try_id=TRY_ID)
    site.asked(TRAIN)
    own = load_file(
        site.config.state_dir / "runs" / "r1" / "moma" / "student.safetensors"
    )
    planted = {
        name: array if "running_var" in name else np.zeros_like(array)
        for name, array in own.items()
    }
    second = replace(TRAIN, round=2)
    keys = replace(second, kind="keys", masking=masking)

    site.asked(replace(second, weights=planted))
    assert len(_round_keys(site.asked(keys))) == 1
    site.asked(replace(second, weights=own))

    other_try = masking.model_copy(update={"try_id": TRY_ID[::-1]})
    sent = site.asked(replace(keys, masking=other_try))
    assert b"this site has no update of this round" in sent
    assert site.error is None


def _round_keys(sent: bytes) -> list[RoundKey]:
    """Finds the key in the report as it travels: JSON, escaped in JSON."""
    text = sent.decode("latin-1").replace('\\"', '"')
    start = text.index('"round_key":') + len('"round_key":')
    return [RoundKey.model_validate_json(text[start : text.index("}", start) + 1])]
