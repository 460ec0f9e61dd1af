"""Masks between pinned keys: what cancels, what shows, and what is never masked."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import FederationError, UpdateRejectedError
from moma_core.federation.masked_sum import (
    MaskedSum,
    MaskingKey,
    Try,
    check_group,
    clipped,
)
from moma_core.federation.task import RoundKey, Weights

TRY = Try("moma", "r1", 3, "00" * 8, "ab" * 32)
SIGNING = {f"site-{letter}": SigningKey.create() for letter in "abcde"}
PINNED = {site: key.public for site, key in SIGNING.items()}


def weights(seed: int, scale: float = 1.0) -> dict[str, NDArray[Any]]:
    draws = np.random.default_rng(seed)
    return {
        "head.weight": (scale * draws.normal(size=(40, 25))).astype(np.float32),
        "head.bias": (scale * draws.normal(size=7)).astype(np.float16),
        "norm.running_var": draws.uniform(size=5).astype(np.float32),
        "norm.num_batches_tracked": np.array(draws.integers(1000), np.int64),
        "nothing": np.zeros((0, 3), np.float32),
    }


@dataclass
class Group:
    """Sites with a key each for one try."""

    keys: dict[str, MaskingKey]

    @property
    def public(self) -> list[RoundKey]:
        return [key.public for key in self.keys.values()]

    def masked(self, site: str, update: Weights) -> Weights:
        partners = check_group(self.public, self.keys[site], PINNED, 3)
        return self.keys[site].masked(update, partners)


def group(count: int = 3, for_try: Try = TRY) -> Group:
    names = itertools.islice(SIGNING.items(), count)
    return Group({site: MaskingKey(for_try, site, key) for site, key in names})


@pytest.mark.parametrize("count", [3, 4, 5])
def test_the_mean_of_masked_updates_is_that_of_the_plain_ones(count: int) -> None:
    sites = group(count)
    updates = {site: weights(seed) for seed, site in enumerate(sites.keys)}
    total = MaskedSum(None)

    for site, update in updates.items():
        total.add(sites.masked(site, update))
    mean = total.mean(1.0)

    for name in ("head.weight", "norm.running_var"):
        plain = np.mean([update[name] for update in updates.values()], axis=0)
        np.testing.assert_allclose(mean[name], plain, atol=1e-6)
    for name, array in updates["site-a"].items():
        assert (mean[name].dtype, mean[name].shape) == (array.dtype, array.shape)
    counts = [int(update["norm.num_batches_tracked"]) for update in updates.values()]
    assert mean["norm.num_batches_tracked"] == round(sum(counts) / count)


def test_a_masked_update_says_nothing_of_the_plain_one() -> None:
    sites = group(3)
    plain = {"w": np.random.default_rng(0).normal(size=200_000).astype(np.float32)}

    masked = sites.masked("site-a", plain)["float32.w"].view("<i8").reshape(-1)

    correlation = np.corrcoef(plain["w"], masked.astype(np.float64))[0, 1]
    assert abs(correlation) < 0.01
    ones = np.unpackbits(masked.view(np.uint8)).mean()
    assert ones == pytest.approx(0.5, abs=0.001)


def test_a_sum_without_one_site_is_noise_and_refused() -> None:
    sites = group(4)
    total = MaskedSum(None)
    for seed, site in enumerate(list(sites.keys)[:3]):
        total.add(sites.masked(site, weights(seed)))

    with pytest.raises(UpdateRejectedError, match="do not cancel"):
        total.mean(1.0)


def test_a_key_masks_one_update_and_no_other() -> None:
    sites = group(3)
    sites.masked("site-a", weights(0))

    with pytest.raises(FederationError, match="masks one update"):
        sites.masked("site-a", weights(1))


def test_a_key_is_gone_also_where_its_update_was_none() -> None:
    sites = group(3)
    with pytest.raises(UpdateRejectedError, match="not finite"):
        sites.masked("site-a", {"w": np.array([np.nan], np.float32)})

    with pytest.raises(FederationError, match="masks one update"):
        sites.masked("site-a", weights(1))


@pytest.mark.parametrize(
    "other",
    [
        TRY._replace(federation="other"),
        TRY._replace(run="r2"),
        TRY._replace(round=2),
        TRY._replace(try_id="11" * 8),
        TRY._replace(terms="cd" * 32),
    ],
)
def test_a_key_of_another_round_or_try_is_refused(other: Try) -> None:
    sites, old = group(3), group(3, other)
    replayed = [*sites.public[:2], old.public[2]]

    with pytest.raises(FederationError, match="site-c is not signed by the pinned"):
        check_group(replayed, sites.keys["site-a"], PINNED, 3)


def test_a_coordinator_that_deals_its_own_keys_is_refused() -> None:
    sites, mallory = group(3), SigningKey.create()
    dealt = MaskingKey(TRY, "site-b", mallory)

    with pytest.raises(FederationError, match="site-b is not signed by the pinned"):
        check_group(
            [sites.public[0], dealt.public, sites.public[2]],
            sites.keys["site-a"],
            PINNED,
            3,
        )


def test_a_partner_that_speaks_for_another_is_refused() -> None:
    sites = group(3)
    forged = sites.public[2].model_copy(update={"site": "site-d"})

    with pytest.raises(FederationError, match="site-d is not signed by the pinned"):
        check_group([*sites.public[:2], forged], sites.keys["site-a"], PINNED, 3)


def test_who_is_not_pinned_is_no_partner() -> None:
    sites = group(4)
    pinned = {site: key for site, key in PINNED.items() if site != "site-d"}

    with pytest.raises(FederationError, match="site-d is no partner"):
        check_group(sites.public, sites.keys["site-a"], pinned, 3)


def _without_a_site(public: list[RoundKey]) -> list[RoundKey]:
    return public[:2]


def _with_a_key_twice(public: list[RoundKey]) -> list[RoundKey]:
    return [*public[:2], public[1].model_copy(update={"site": "site-c"})]


def _with_a_site_twice(public: list[RoundKey]) -> list[RoundKey]:
    return [*public[:2], public[2].model_copy(update={"site": "site-b"})]


def _without_the_own_key(public: list[RoundKey]) -> list[RoundKey]:
    return [*public[1:], MaskingKey(TRY, "site-d", SIGNING["site-d"]).public]


def _with_an_old_own_key(public: list[RoundKey]) -> list[RoundKey]:
    return [MaskingKey(TRY, "site-a", SIGNING["site-a"]).public, *public[1:]]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_without_a_site, "a group of 2 sites is smaller than 3"),
        (_with_a_key_twice, "repeats"),
        (_with_a_site_twice, "repeats"),
        (_without_the_own_key, "without this site's key"),
        (_with_an_old_own_key, "without this site's key"),
    ],
)
def test_a_group_that_is_none_is_refused(change: Any, why: str) -> None:
    sites = group(3)

    with pytest.raises(FederationError, match=why):
        check_group(change(sites.public), sites.keys["site-a"], PINNED, 3)


def test_a_pinned_site_with_a_key_of_small_order_is_refused() -> None:
    sites, key = group(3), "00" * 32
    statement = TRY.statement(site="site-b", key=key)
    signature = SIGNING["site-b"].sign("round key", statement).hex()
    weak = RoundKey(site="site-b", key=key, signature=signature)
    changed = [sites.public[0], weak, sites.public[2]]
    own = sites.keys["site-a"]
    partners = check_group(changed, own, PINNED, 3)

    with pytest.raises(FederationError, match="the key of site-b is none"):
        own.masked(weights(0), partners)


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 1e6])
def test_a_movement_is_clipped_to_the_norm_and_never_lengthened(
    max_norm: float,
) -> None:
    start, end = weights(0), weights(1)

    kept, norm = clipped(end, start, max_norm)

    floats = [name for name in start if start[name].dtype.kind == "f"]
    moved = [(kept[name] - start[name].astype(np.float64)).ravel() for name in floats]
    left = float(np.linalg.norm(np.concatenate(moved)))
    assert left == pytest.approx(min(norm, max_norm), rel=1e-3)
    assert kept["norm.running_var"].min() >= 0
    assert (
        kept["norm.num_batches_tracked"] is end["norm.num_batches_tracked"]
    )  # a count of steps has no movement


def test_a_student_that_did_not_move_stays() -> None:
    kept, norm = clipped(weights(0), weights(0), 1.0)

    assert norm == 0
    np.testing.assert_array_equal(kept["head.weight"], weights(0)["head.weight"])


def test_a_value_that_would_wrap_is_refused_at_the_site() -> None:
    sites = group(3)

    with pytest.raises(UpdateRejectedError, match="w holds a value beyond"):
        sites.masked("site-a", {"w": np.array([2e7], np.float32)})


@pytest.mark.parametrize(
    ("update", "why"),
    [
        ({"float32.w": np.zeros((3, 8), np.int64)}, "no masked tensor"),
        ({"float32.w": np.zeros((3, 4), np.uint8)}, "no masked tensor"),
        ({"float32.w": np.zeros((), np.uint8)}, "no masked tensor"),
        ({"w": np.zeros((3, 8), np.uint8)}, "begin with its type"),
        ({"complex64.w": np.zeros((3, 8), np.uint8)}, "begin with its type"),
        ({"float32.w": np.zeros((4, 8), np.uint8)}, "another form"),
        ({"float16.w": np.zeros((3, 8), np.uint8)}, "another form"),
        ({"float32.v": np.zeros((3, 8), np.uint8)}, "another form"),
        ({}, "another form"),
    ],
)
def test_a_masked_update_of_another_type_or_size_is_refused(
    update: dict[str, NDArray[Any]], why: str
) -> None:
    total = MaskedSum({"w": np.zeros(3, np.float32)})

    with pytest.raises(UpdateRejectedError, match=why):
        total.add(update)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("int32", 3 << 31),
        ("int32", -3 << 32),
        ("int64", 3 << 41),
        ("uint8", -3),
        ("uint8", 3 * 256),
        ("float16", 3 * 70_000 << 32),
        ("float32", 3 << 57),
        ("float64", -3 << 57),
    ],
)
def test_a_member_that_masks_what_its_type_cannot_hold_spoils_the_sum_alone(
    kind: str, word: int
) -> None:
    sites = group(3)
    total = MaskedSum(None)
    for site in ("site-a", "site-b"):
        total.add(sites.masked(site, {"w": np.zeros(2, kind)}))
    bad = sites.masked("site-c", {"w": np.zeros(2, kind)})
    words = bad[f"{kind}.w"].reshape(-1).view("<u8") + np.uint64(word % 2**64)
    total.add({f"{kind}.w": words.view(np.uint8).reshape(2, 8)})

    with pytest.raises(UpdateRejectedError, match="the masks of w do not cancel"):
        total.mean(1.0)


def test_what_was_refused_is_not_in_the_sum() -> None:
    sites, update = group(3), {"w": np.ones(3, np.float32)}
    total = MaskedSum({"w": np.zeros(3, np.float32)})
    total.add(sites.masked("site-a", update))
    with pytest.raises(UpdateRejectedError):
        total.add({"float32.w": np.zeros((4, 8), np.uint8)})

    total.add(sites.masked("site-b", update))
    total.add(sites.masked("site-c", update))

    np.testing.assert_allclose(total.mean(2.0)["w"], update["w"])


def test_a_mean_that_moved_further_than_sites_clip_is_refused() -> None:
    sites = group(3)
    total = MaskedSum({"w": np.zeros(3, np.float32)})
    for site, value in zip(sites.keys, (0.1, 0.1, 90.0), strict=True):
        total.add(sites.masked(site, {"w": np.full(3, value, np.float32)}))

    with pytest.raises(UpdateRejectedError, match=r"moved by 52.1, sites clip to 1"):
        total.mean(1.0)


def test_signatures_name_what_they_are_for() -> None:
    key = MaskingKey(TRY, "site-a", SIGNING["site-a"]).public
    verifying: VerifyingKey = PINNED["site-a"]
    statement = TRY.statement(site="site-a", key=key.key)

    verifying.check("round key", statement, bytes.fromhex(key.signature))
    with pytest.raises(Exception, match="is not of"):
        verifying.check("checkpoint", statement, bytes.fromhex(key.signature))
