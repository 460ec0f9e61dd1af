"""Rounds whose coordinator gets a sum: the real egress of sites, the real run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from moma_core.federation.task import RoundReport, RoundTask
from moma_core.federation.weights import weights_to_bytes
from moma_server.config.federation_plan import FederationPlan
from moma_server.federation.run.records import RecordFile, RoundRecord
from moma_server.federation.run.round import Reply
from tests.support.federation.fake_sites import Behaviour
from tests.support.federation.masked_sites import (
    MaskedSite,
    first_weights,
    masked_sites,
    plain_mean,
)
from tests.support.federation.runs import conduct, order, student, world

NAMES = ("site-a", "site-b", "site-c", "site-d")
NORM = 40.0
SECURE = FederationPlan(
    mode="fedavg",
    aggregation="secure",
    rounds=1,
    quorum=3,
    retries=1,
    asks=1,
    max_update_norm=NORM,
)


def conducted(
    folder: Path, sites: dict[str, Behaviour], plan: FederationPlan = SECURE
) -> list[str]:
    fakes = world()
    fakes.behaviours.update(sites)
    return conduct(order(folder, plan), fakes)


def answers(sites: dict[str, MaskedSite]) -> dict[str, Behaviour]:
    return {name: site.answer for name, site in sites.items()}


def records(folder: Path) -> list[RoundRecord]:
    return RecordFile(folder / "records.jsonl").read()


def drops_out(site: MaskedSite, times: int, kind: str = "update") -> Behaviour:
    """The site is killed as often, as tasks of a kind come."""
    left = times

    def answer(task: RoundTask, number: int) -> RoundReport | Reply | None:
        nonlocal left
        if task.kind == kind and left:
            left -= 1
            site.start_anew()
            return Reply("", None, "away", "the site was lost")
        return site.answer(task, number)

    return answer


def test_the_student_is_the_mean_of_the_clipped_updates(tmp_path: Path) -> None:
    sites = masked_sites(tmp_path, *NAMES)
    sites["site-d"].moves = 50.0

    done = conducted(tmp_path, answers(sites), SECURE.model_copy(update={"rounds": 2}))

    assert done[:2] == ["train 1 completed", "train 2 completed"]
    start = first_weights()
    for number in (1, 2):
        mean = student(tmp_path, number)
        wanted = plain_mean(sites, number, start, NORM)
        np.testing.assert_allclose(mean["body.weight"], wanted, atol=1e-6)
        assert mean["body.num_batches_tracked"] == 10 * number
        start = dict(mean)
    assert records(tmp_path)[0].took_part == list(NAMES)


def test_nothing_that_the_coordinator_gets_or_keeps_is_a_sites_update(
    tmp_path: Path,
) -> None:
    sites = masked_sites(tmp_path, *NAMES[:3])

    conducted(tmp_path, answers(sites))

    kept = [p.read_bytes() for p in tmp_path.glob("weights/**/*") if p.is_file()]
    kept.append((tmp_path / "records.jsonl").read_bytes())
    seen = b"".join(kept + [part for s in sites.values() for part in s.received])
    assert len(seen) > 3 * 8 * 3000
    for site in sites.values():
        (plain,) = site.plain
        values = plain["body.weight"].tobytes()
        # eight bytes are two values in a row: by chance they stand nowhere
        assert not [
            at for at in range(0, len(values), 8) if values[at : at + 8] in seen
        ]
        masked = next(part for part in site.received if len(part) > 3000)
        words = np.frombuffer(masked[-8 * 3001 :], "<i8").astype(np.float64)
        for offset in (0, 1):
            part = words[offset : offset + 3000]
            share = np.corrcoef(part, plain["body.weight"].ravel())[0, 1]
            assert abs(share) < 0.1


def test_who_drops_out_before_its_key_is_left_out_and_named(tmp_path: Path) -> None:
    sites = masked_sites(tmp_path, *NAMES)

    done = conducted(
        tmp_path, answers(sites) | {"site-d": drops_out(sites["site-d"], 9, "keys")}
    )

    assert done[0] == "train 1 completed"
    record = records(tmp_path)[0]
    assert record.took_part == list(NAMES[:3])
    assert record.sites["site-d"].state == "away"
    assert record.sites["site-d"].reason == (
        "dropped out of the sum: the site was lost"
    )
    del sites["site-d"]
    wanted = plain_mean(sites, 1, first_weights(), NORM)
    np.testing.assert_allclose(student(tmp_path, 1)["body.weight"], wanted, atol=1e-6)


def test_a_sum_without_one_is_repeated_under_new_keys_with_the_same_sites(
    tmp_path: Path,
) -> None:
    sites = masked_sites(tmp_path, *NAMES)

    done = conducted(
        tmp_path, answers(sites) | {"site-b": drops_out(sites["site-b"], 1)}
    )

    assert done[:2] == ["train 1 missed_quorum", "train 1 completed"]
    first, second = records(tmp_path)[:2]
    assert first.sites["site-b"].reason == ("dropped out of the sum: the site was lost")
    assert second.took_part == list(NAMES)
    wanted = plain_mean(sites, 1, first_weights(), NORM)
    np.testing.assert_allclose(student(tmp_path, 1)["body.weight"], wanted, atol=1e-6)
    masked = [part for part in sites["site-a"].received if len(part) > 3000]
    assert len(masked) == 2
    one, other = (np.frombuffer(part[-8 * 3001 :], "<u8") for part in masked)
    shown = (one - other).view("<i8").astype(np.float64)
    plain = sites["site-a"].plain[0]["body.weight"].ravel()
    assert abs(np.corrcoef(shown[1:], plain)[0, 1]) < 0.1
    assert abs(np.corrcoef(shown[:-1], plain)[0, 1]) < 0.1


def test_a_round_without_its_sum_is_left_behind_once(tmp_path: Path) -> None:
    sites = masked_sites(tmp_path, *NAMES)
    plan = SECURE.model_copy(update={"rounds": 3, "retries": 0})

    done = conducted(
        tmp_path,
        answers(sites) | {"site-d": drops_out(sites["site-d"], 1)},
        plan,
    )

    assert done[:3] == [
        "train 1 missed_quorum",
        "train 2 completed",
        "train 3 completed",
    ]
    wanted = plain_mean(sites, 2, first_weights(), NORM)
    np.testing.assert_allclose(student(tmp_path, 2)["body.weight"], wanted, atol=1e-6)


def test_a_second_lost_sum_in_a_row_ends_the_run(tmp_path: Path) -> None:
    sites = masked_sites(tmp_path, *NAMES)
    plan = SECURE.model_copy(update={"rounds": 5, "retries": 0})

    done = conducted(
        tmp_path,
        answers(sites) | {"site-d": drops_out(sites["site-d"], 9)},
        plan,
    )

    assert done == ["train 1 missed_quorum", "train 2 missed_quorum", "run 2 stopped"]


def test_a_site_that_pinned_another_key_refuses_and_the_record_says_so(
    tmp_path: Path,
) -> None:
    sites = masked_sites(tmp_path, *NAMES)
    site = sites["site-a"]
    site.partners = {**site.partners, "site-b": "ed25519:" + "5f" * 32}
    site.start_anew()

    conducted(tmp_path, answers(sites))

    assert records(tmp_path)[0].sites["site-a"].reason == (
        "dropped out of the sum: the key of site-b is not signed by the pinned one for "
        "this try"
    )
    assert not list(tmp_path.glob("weights/*.safetensors"))


def _sends(report: RoundReport) -> Callable[[RoundTask], RoundReport]:
    return lambda _task: report


HOSTILE = [
    ("train", RoundReport(patches=10, weights=first_weights()), "without masks"),
    ("keys", RoundReport(), "no key of this site"),
    ("update", RoundReport(), "another form"),
    ("update", RoundReport(weights=first_weights()), "no masked tensor"),
    (
        "update",
        RoundReport(weights={"float32.w": np.zeros((3, 8), np.uint8)}),
        "masks of body.weight|another form",
    ),
]


@pytest.mark.parametrize(("kind", "report", "why"), HOSTILE)
def test_what_is_no_part_of_a_sum_is_refused_and_named(
    tmp_path: Path, kind: str, report: RoundReport, why: str
) -> None:
    sites = masked_sites(tmp_path, *NAMES)

    def hostile(task: RoundTask, number: int) -> RoundReport | Reply | None:
        return report if task.kind == kind else sites["site-d"].answer(task, number)

    conducted(tmp_path, answers(sites) | {"site-d": hostile})

    entry = records(tmp_path)[0].sites["site-d"]
    assert entry.state == "failed"
    assert entry.reason is not None
    assert any(part in entry.reason for part in why.split("|"))


def test_a_site_that_speaks_with_anothers_key_is_refused(tmp_path: Path) -> None:
    sites = masked_sites(tmp_path, *NAMES)

    def parrot(task: RoundTask, number: int) -> RoundReport | Reply | None:
        site = sites["site-c" if task.kind == "keys" else "site-d"]
        return site.answer(task, number)

    done = conducted(tmp_path, {**answers(sites), "site-d": parrot})

    assert done[0] == "train 1 missed_quorum"  # site-c's key is another by now
    reason = records(tmp_path)[0].sites["site-d"].reason
    assert reason is not None
    assert "no key of this site" in reason


def test_a_sum_that_moved_too_far_is_nobodys_student(tmp_path: Path) -> None:
    sites = masked_sites(tmp_path, *NAMES[:3])
    plan = SECURE.model_copy(update={"rounds": 2, "retries": 0})
    liar = sites["site-c"]

    def lies(task: RoundTask, number: int) -> RoundReport | Reply | None:
        if task.round == 2 and task.kind == "train":
            kept = liar.answer(task, number)
            path = next(liar.folder.rglob("clipped.safetensors"))
            much = {"body.weight": np.full((30, 100), 900, np.float32)}
            whole = {**liar.plain[-1], **much}
            metadata = {"round": "2", "terms": _terms(path)}
            path.write_bytes(weights_to_bytes(whole, metadata))
            return kept
        return liar.answer(task, number)

    done = conducted(tmp_path, answers(sites) | {"site-c": lies}, plan)

    assert done == ["train 1 completed", "train 2 missed_quorum", "run 2 stopped"]
    reason = records(tmp_path)[1].sites["site-a"].reason
    assert reason is not None
    assert reason.startswith(
        "the sum, not this site's part, is rejected: the mean moved"
    )


def _terms(path: Path) -> str:
    from moma_core.federation.weights import load_metadata

    return load_metadata(path)["terms"]


def test_two_sites_are_too_few_to_hide_one() -> None:
    with pytest.raises(ValidationError, match="secure needs 3 sites, to hide one"):
        FederationPlan(mode="fedavg", aggregation="secure", rounds=1, quorum=2)


def test_a_plan_without_masks_says_nothing_of_them() -> None:
    plan = FederationPlan(rounds=1, aggregation="secure")

    assert plan.masking is None
    assert replace(TASK, masking=plan.masking).key == "r1-000001-train"


TASK = RoundTask(
    kind="train", run="r1", round=1, rounds=1, local_epochs=1, mode="independent"
)
