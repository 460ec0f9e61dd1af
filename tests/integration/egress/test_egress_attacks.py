"""A coordinator that asks for more than a site lets out gets nothing of it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moma_core.federation.task import RoundTask
from tests.support.site.egress_site import EgressSite, write_patches

ROUND = RoundTask(
    kind="train", run="r1", round=1, rounds=2, local_epochs=1, mode="independent"
)
CLOSE = replace(ROUND, kind="close", round=2)
WEIGHTS = {"w": np.ones(3, np.float32)}
LISTED = [
    *("validation_accuracy", "validation_macro_f1", "unseen_accuracy"),
    *("validation_recall_rare", "validation_recall_benign"),
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[EgressSite]:
    bounds = {"max_epochs_per_round": 2, "max_epochs_per_run": 4, "max_runs": 2}
    with EgressSite(
        tmp_path, coordinator=bounds, egress={"metrics": LISTED}
    ) as started:
        yield started


def _assert_nothing_of(site: EgressSite, sent: bytes) -> None:
    told = sent.lower()
    assert {word for word in site.secrets() if word in told} == set()


def test_a_round_that_asks_for_more_is_refused_in_a_fixed_sentence(
    site: EgressSite,
) -> None:
    asked = {
        "more than 2 epochs a round": replace(ROUND, local_epochs=3),
        "more than 4 epochs a run": replace(ROUND, rounds=5),
        "weights may not leave this site": replace(ROUND, mode="fedavg"),
        "taken in a round of fedavg only": replace(ROUND, weights=WEIGHTS),
    }

    for number, (sentence, task) in enumerate(asked.items()):
        sent = site.asked(replace(task, run=f"evil-{number}"))

        assert sentence.encode() in sent
        assert b"validation_accuracy" not in sent
        _assert_nothing_of(site, sent)
    assert not list((site.config.state_dir / "runs").glob("evil-*"))
    assert (site.blocked("epochs"), site.blocked("weights")) == (2, 2)


def test_figures_on_few_patients_and_on_a_class_of_two_stay(site: EgressSite) -> None:
    first = site.asked(ROUND)
    last = site.asked(CLOSE)

    for sent in (first, last):
        assert b"validation_accuracy" in sent
        assert b"recall" not in sent
        assert b"unseen" not in sent  # three patients
        assert b'"patches":50' in sent  # 48
        _assert_nothing_of(site, sent)
    kept = site.kept_in()
    assert ("validation_recall_rare", "class_patients") in kept
    assert ("unseen_accuracy", "patients") in kept
    assert ("validation_recall_maria_mueller", "metric") in kept


def test_a_cohort_minus_one_patient_tells_nothing_of_that_patient(
    site: EgressSite,
) -> None:
    site.asked(ROUND)
    write_patches(site.patches, without="patient-validation-7")

    sent = site.asked(replace(ROUND, run="r2"))

    assert b"validation" not in sent
    assert ("validation_accuracy", "cohort") in site.kept_in()
    _assert_nothing_of(site, sent)


def test_one_run_more_than_the_site_takes_is_refused(site: EgressSite) -> None:
    for run in ("r1", "r2"):
        assert b'refusal":null' in site.asked(replace(ROUND, run=run))

    sent = site.asked(replace(ROUND, run="r3"))

    assert b"more than 2 runs" in sent
    _assert_nothing_of(site, sent)


def test_an_error_that_names_a_patient_and_a_path_stays(site: EgressSite) -> None:
    site.asked(replace(ROUND, local_epochs=3))  # by then it has looked at its data
    (site.patches / "manifest.csv").write_text("Maria Mueller, born 1950\n")

    sent = site.asked(ROUND)

    site.wait_for_the_end()
    assert b"the site cannot train; its operator knows why" in sent
    assert str(site.patches) in str(site.error)
    _assert_nothing_of(site, sent)


def test_weights_that_do_not_fit_fail_a_round_and_do_not_end_the_site(
    tmp_path: Path,
) -> None:
    averaged = replace(ROUND, mode="fedavg", rounds=4)
    poisoned = replace(averaged, round=2, weights=WEIGHTS)
    with EgressSite(tmp_path, coordinator={"weights_may_leave": True}) as site:
        site.asked(averaged)

        sent = site.asked(poisoned)
        again = site.asked(replace(averaged, round=3))

        assert b"the site could not do the work" in sent
        assert b"safetensors" in again  # it goes on with what it has
        _assert_nothing_of(site, sent)
    assert site.error is None
