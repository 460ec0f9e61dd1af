"""A site's part in a sum: for whom it masks, and what no coordinator gets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moma_client.egress.log import log_entries, log_path
from moma_core.federation.task import (
    Masking,
    RoundKey,
    RoundReport,
    RoundTask,
    Weights,
)
from tests.support.federation.masked_sites import (
    MaskedSite,
    first_weights,
    masked_sites,
)
from tests.support.site.tiny_site import local_config

NAMES = ("site-a", "site-b", "site-c", "site-d")
TRAIN = RoundTask(
    kind="train",
    run="r1",
    round=1,
    rounds=3,
    local_epochs=1,
    mode="fedavg",
    masking=Masking(max_update_norm=50.0),
)
Sites = dict[str, MaskedSite]


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return masked_sites(tmp_path, *NAMES)


def for_sum(kind: Any, try_id: str, *keys: RoundKey, task: RoundTask) -> RoundTask:
    norm = 50.0 if task.masking is None else task.masking.max_update_norm
    masking = Masking(max_update_norm=norm, try_id=try_id * 16, keys=keys)
    return replace(task, kind=kind, weights=None, masking=masking)


def said(site: MaskedSite, task: RoundTask) -> RoundReport:
    report = site.answer(task)
    assert isinstance(report, RoundReport)
    return report


def keys_of(
    sites: Sites, *names: str, try_id: str = "1", task: RoundTask = TRAIN
) -> list[RoundKey]:
    """Has the sites train and make their keys, as an honest coordinator does."""
    keys = []
    for name in names or NAMES:
        said(sites[name], task)
        key = said(sites[name], for_sum("keys", try_id, task=task)).round_key
        assert key is not None
        keys.append(key)
    return keys


def refusal(
    site: MaskedSite, keys: list[RoundKey], try_id: str = "1", task: RoundTask = TRAIN
) -> str | None:
    return said(site, for_sum("update", try_id, *keys, task=task)).refusal


def test_a_masked_update_leaves_and_is_noted(sites: Sites) -> None:
    keys = keys_of(sites)

    report = said(sites["site-a"], for_sum("update", "1", *keys, task=TRAIN))

    assert report.weights is not None
    assert set(report.weights) == {
        "float32.body.weight",
        "int64.body.num_batches_tracked",
    }
    entries = list(log_entries(log_path(sites["site-a"].folder / "state")))
    assert [entry["masked"] for entry in entries] == [False, False, True]


def test_the_report_on_the_training_carries_no_weights(sites: Sites) -> None:
    assert said(sites["site-a"], TRAIN).weights is None


def test_a_coordinator_that_drops_the_masks_gets_nothing(sites: Sites) -> None:
    report = said(sites["site-a"], replace(TRAIN, masking=None))

    assert report.refusal == "weights may not leave this site"
    assert report.weights is None


def test_a_norm_beyond_the_sites_own_is_refused(tmp_path: Path) -> None:
    site = masked_sites(tmp_path, *NAMES, max_update_norm=10.0)["site-a"]

    assert said(site, TRAIN).refusal == "an update of this site moves 10 at most"


def test_a_site_without_partners_masks_nothing(tmp_path: Path) -> None:
    site = masked_sites(tmp_path, *NAMES)["site-a"]
    config = local_config(tmp_path / "site-a")
    site.egress = type(site.egress)(config, site.egress._metrics)

    assert said(site, TRAIN).refusal == "masked weights may not leave this site"


def test_a_second_update_in_one_try_is_refused(sites: Sites) -> None:
    keys = keys_of(sites)
    assert refusal(sites["site-a"], keys) is None

    assert refusal(sites["site-a"], keys) == (
        "this site has no key of this try, or not any more"
    )
    assert refusal(sites["site-a"], keys[:3]) == (
        "this site has no key of this try, or not any more"
    )


def test_a_refused_group_uses_up_the_key(sites: Sites) -> None:
    keys = keys_of(sites)

    assert refusal(sites["site-a"], keys[:2]) == (
        "a group of 2 sites is smaller than 3, its smallest here"
    )
    assert refusal(sites["site-a"], keys) is not None


def test_a_site_that_was_killed_has_no_key_and_makes_another(sites: Sites) -> None:
    keys = keys_of(sites)
    sites["site-a"].start_anew()

    assert refusal(sites["site-a"], keys) == (
        "this site has no key of this try, or not any more"
    )
    again = said(sites["site-a"], for_sum("keys", "1", task=TRAIN)).round_key
    assert again is not None
    assert again.key != keys[0].key
    assert refusal(sites["site-a"], [again, *keys[1:]]) is None


def test_a_coordinator_that_tries_without_an_end_rolls_no_record_away(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moma_client.egress.to_coordinator.MOST_KEYS", 2)
    site = sites["site-a"]
    said(site, TRAIN)
    for number in "12":
        assert said(site, for_sum("keys", number, task=TRAIN)).round_key
    site.start_anew()

    assert said(site, for_sum("keys", "3", task=TRAIN)).refusal == (
        "more than 2 tries of a sum a run"
    )


def test_no_key_lies_on_the_disk(sites: Sites) -> None:
    keys_of(sites)

    masking = sites["site-a"].egress._masked
    assert masking is not None
    assert masking._key is not None
    secret = masking._key._secret
    assert secret is not None
    raw = secret.private_bytes_raw()
    files = [p.read_bytes() for p in sites["site-a"].folder.rglob("*") if p.is_file()]
    assert len(files) > 3
    assert not any(raw in content or raw.hex().encode() in content for content in files)


def test_the_smallest_group_is_the_sites_own(tmp_path: Path) -> None:
    sites = masked_sites(tmp_path, *NAMES, smallest_group=4)
    keys = keys_of(sites)

    assert refusal(sites["site-a"], keys[:3]) == (
        "a group of 3 sites is smaller than 4, its smallest here"
    )


def test_keys_of_an_earlier_round_are_refused(sites: Sites) -> None:
    old = keys_of(sites)
    later = replace(TRAIN, round=2)
    keys = keys_of(sites, task=later)

    assert refusal(sites["site-a"], [*keys[:3], old[3]], task=later) == (
        "the key of site-d is not signed by the pinned one for this try"
    )


def test_keys_of_another_try_are_refused(sites: Sites) -> None:
    old = keys_of(sites)
    keys = keys_of(sites, try_id="2")

    assert refusal(sites["site-a"], [keys[0], *old[1:]], "2") is not None


def test_one_round_leaves_for_one_group(sites: Sites) -> None:
    assert refusal(sites["site-a"], keys_of(sites)) is None
    fewer = keys_of(sites, *NAMES[:3], try_id="2")

    assert refusal(sites["site-a"], fewer, "2") == (
        "this update has left for another group already"
    )
    assert refusal(sites["site-a"], keys_of(sites, try_id="3"), "3") is None


def test_one_round_leaves_for_one_group_also_after_a_kill(sites: Sites) -> None:
    assert refusal(sites["site-a"], keys_of(sites)) is None
    sites["site-a"].start_anew()
    fewer = keys_of(sites, *NAMES[:3], try_id="2")

    assert refusal(sites["site-a"], fewer, "2") == (
        "this update has left for another group already"
    )


def test_what_the_next_round_trains_may_leave_for_others(sites: Sites) -> None:
    assert refusal(sites["site-a"], keys_of(sites)) is None
    later = replace(TRAIN, round=2)

    fewer = keys_of(sites, *NAMES[:3], task=later)

    assert refusal(sites["site-a"], fewer, task=later) is None


def test_the_same_update_under_another_number_is_the_same(sites: Sites) -> None:
    same = sites["site-a"]._trained(TRAIN)
    for site in sites.values():
        site._trained = lambda _task: same  # type: ignore[method-assign]
    assert refusal(sites["site-a"], keys_of(sites)) is None
    later = replace(TRAIN, round=2)

    fewer = keys_of(sites, *NAMES[:3], task=later)

    assert refusal(sites["site-a"], fewer, task=later) == (
        "this update has left for another group already"
    )


def test_an_earlier_round_is_over(sites: Sites) -> None:
    later = replace(TRAIN, round=2)
    assert refusal(sites["site-a"], keys_of(sites, task=later), task=later) is None

    assert refusal(sites["site-a"], keys_of(sites)) == (
        "this site has masked an update of a later round"
    )


OTHER_TERMS = [
    {"masking": Masking(max_update_norm=1e-9)},
    {"rounds": 2},
    {"local_epochs": 0},
    {"local_epochs": 5},
    {"local_steps": 1},
    {"weights": {**first_weights(), "body.weight": np.zeros((30, 100), np.float32)}},
]


@pytest.mark.parametrize("terms", OTHER_TERMS)
def test_sites_that_were_asked_for_different_things_make_no_group(
    sites: Sites, terms: dict[str, Any]
) -> None:
    """Else all but one would clip or train to nothing, and the sum be that one."""
    start = replace(TRAIN, weights=first_weights())
    keys = [
        *keys_of(sites, "site-a", task=start),
        *keys_of(sites, "site-b", "site-c", task=replace(start, **terms)),
    ]

    assert refusal(sites["site-a"], keys, task=start) == (
        "the key of site-b is not signed by the pinned one for this try"
    )


def test_sites_whose_own_schedules_differ_make_a_group(sites: Sites) -> None:
    """Of the same steps a site with few patches makes more epochs."""
    asked = replace(TRAIN, local_steps=60, weights=first_weights())
    for name, steps_per_epoch in (("site-a", 60), ("site-b", 6), ("site-c", 2)):
        sites[name].steps_per_epoch = steps_per_epoch

    keys = keys_of(sites, *NAMES[:3], task=asked)

    assert refusal(sites["site-a"], keys, task=asked) is None


@pytest.mark.parametrize("named", [first_weights(), None])
def test_a_student_that_began_elsewhere_than_the_coordinator_says_has_no_update(
    sites: Sites, named: Weights | None
) -> None:
    """Asked twice for a round, it would have moved by what the coordinator chose."""
    site = sites["site-a"]
    planted = {**first_weights(), "body.weight": np.zeros((30, 100), np.float32)}
    first = replace(TRAIN, weights=planted)
    trained = site._trained(first)
    said(site, first)
    said(site, for_sum("keys", "1", task=first))
    site._trained = lambda _task: trained  # type: ignore[method-assign]
    again = replace(TRAIN, weights=named)
    said(site, again)

    assert said(site, for_sum("keys", "2", task=again)).refusal == (
        "this site has no update of this round"
    )


def test_the_same_update_in_another_run_is_the_same(sites: Sites) -> None:
    """Where all is set alike, the first round of a next run makes the same again."""
    assert refusal(sites["site-a"], keys_of(sites)) is None
    later = replace(TRAIN, round=2)
    assert refusal(sites["site-a"], keys_of(sites, task=later), task=later) is None
    sites["site-a"].start_anew()
    other = replace(TRAIN, run="r2")

    fewer = keys_of(sites, *NAMES[:3], task=other)

    assert refusal(sites["site-a"], fewer, task=other) == (
        "this update has left for another group already"
    )
    whole = keys_of(sites, try_id="2", task=other)
    assert refusal(sites["site-a"], whole, "2", task=other) is None


def test_a_student_that_did_not_move_has_no_update(sites: Sites) -> None:
    site = sites["site-a"]
    site.moves = 0.0
    said(site, replace(TRAIN, weights=first_weights()))

    keys = for_sum("keys", "1", task=TRAIN)

    assert said(site, keys).refusal == "this site has no update of this round"


def test_a_student_of_nan_has_no_update_and_the_site_goes_on(sites: Sites) -> None:
    site = sites["site-a"]
    site.moves = float("nan")
    said(site, TRAIN)

    keys = for_sum("keys", "1", task=TRAIN)

    assert said(site, keys).refusal == "this site has no update of this round"


def test_an_update_of_another_round_is_not_masked(sites: Sites) -> None:
    said(sites["site-a"], TRAIN)

    keys = for_sum("keys", "1", task=replace(TRAIN, round=2))

    assert said(sites["site-a"], keys).refusal == (
        "this site has no update of this round"
    )


def test_the_closing_task_takes_the_update_from_the_disk(sites: Sites) -> None:
    said(sites["site-a"], TRAIN)
    assert list(sites["site-a"].folder.rglob("clipped.safetensors"))

    said(sites["site-a"], replace(TRAIN, kind="close"))

    assert not list(sites["site-a"].folder.rglob("clipped.safetensors"))


def test_sums_need_no_evaluations(tmp_path: Path) -> None:
    sites = masked_sites(tmp_path, *NAMES)
    keys = keys_of(sites)
    site = sites["site-a"]
    site.egress._bounds = replace(site.egress._bounds, evaluations_per_run=1)

    assert said(site, TRAIN).refusal == "more than 1 evaluations a run"
    assert refusal(site, keys) is None
