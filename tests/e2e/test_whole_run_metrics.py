"""What Prometheus saw of a whole run is what log, records and sites say of it."""

from collections import Counter, defaultdict

import pytest

from moma_server.federation.run.records import RoundRecord
from moma_server.metrics.metrics import SampleKey, read_samples, sample_key
from tests.support.e2e.asking import ask
from tests.support.e2e.programs import until
from tests.support.e2e.watched import TEACHER_JOB, logged_numbers
from tests.support.e2e.whole_run import (
    COORDINATOR_JOB,
    GOLDEN,
    RELAYED,
    ROUNDS,
    WholeRun,
)
from tests.support.e2e.world import SITES, TEACHER

pytestmark = pytest.mark.timeout(1800)  # of the whole run, on a busy machine

_SCRAPE_SECONDS = 240.0

_TEACHERS = {
    "moma_teacher_requests_total": {"site", "teacher", "outcome"},
    "moma_teacher_patches_total": {"site", "teacher"},
    "moma_teacher_unique_patches": {"site", "teacher"},
    "moma_teacher_budget_patches": {"site", "teacher"},
    "moma_teacher_budget_remaining_ratio": {"site", "teacher"},
    "moma_teacher_embedding_coverage_ratio": {"site", "teacher"},
    "moma_teacher_denied_total": {"site", "teacher", "reason"},
    "moma_teacher_request_duration_seconds_bucket": {"le"},
    "moma_teacher_queue_duration_seconds_bucket": {"le"},
    "moma_teacher_batch_size_bucket": {"le"},
    "moma_teacher_inflight_requests": set(),
    "moma_audit_log_size": set(),
    "moma_audit_checkpoint_timestamp_seconds": set(),
    "moma_audit_reconcile_mismatch_total": set(),
}
_COORDINATORS = {
    "moma_relay_bytes_total": {"site", "teacher", "direction"},
    "moma_federation_rounds_total": {"outcome"},
    "moma_federation_round_duration_seconds_bucket": {"le"},
    "moma_federation_sites": {"state"},
    "moma_site_metric": {"site", "metric"},
    "moma_site_last_seen_timestamp_seconds": {"site"},
}
_SITES = {
    "moma_client_step_duration_seconds_bucket": {"phase", "le"},
    "moma_client_loss": {"term"},
    "moma_client_patches_total": {"source"},
    "moma_client_egress_bytes_total": {"channel"},
    "moma_client_egress_blocked_total": {"rule"},
    "moma_client_teacher_wait_seconds_total": set(),
}
_ALL = {
    "moma_certificate_expiry_timestamp_seconds": {"subject"},
    "moma_build_info": {"version"},
}
_CONTRACT: dict[str, dict[str, set[str]]] = {
    TEACHER_JOB: {**_TEACHERS, **_ALL},
    COORDINATOR_JOB: {**_COORDINATORS, **_ALL},
    **{site: {**_SITES, **_ALL} for site in SITES},
}


def _numbers(run: WholeRun, job: str, *names: str) -> dict[SampleKey, float]:
    shown = run.prometheus.shown(job)
    return {key: value for key, value in shown.items() if key[0] in names and value}


def _sees(run: WholeRun, job: str, numbers: dict[SampleKey, float]) -> None:
    """Waits until Prometheus has these numbers, and no others of their names."""
    names = {name for name, _ in numbers}
    until(
        lambda: _numbers(run, job, *names) == numbers,
        seconds=_SCRAPE_SECONDS,
        what=f"{job} shows {numbers}; it shows {_numbers(run, job, *names)}",
    )


def test_prometheus_has_what_the_teachers_log_says(watched_run: WholeRun) -> None:
    logged = logged_numbers(watched_run.world.teacher_config())

    assert {key for key in logged if key[0] == "moma_teacher_patches_total"} == {
        sample_key("moma_teacher_patches_total", site=site, teacher=TEACHER)
        for site in SITES
    }
    _sees(watched_run, TEACHER_JOB, logged)


def test_prometheus_has_what_the_records_of_the_rounds_say(
    watched_run: WholeRun,
) -> None:
    records = watched_run.world.records()
    trained = [record for record in records if record.kind == "train"]
    outcomes = Counter(record.outcome for record in trained)

    _sees(watched_run, COORDINATOR_JOB, _figures_of(records))
    rounds = {
        sample_key("moma_federation_rounds_total", outcome=outcome): float(count)
        for outcome, count in outcomes.items()
    }
    _sees(watched_run, COORDINATOR_JOB, rounds)
    assert sum(outcomes.values()) == ROUNDS
    shown = watched_run.prometheus.shown(COORDINATOR_JOB)
    name = "moma_federation_round_duration_seconds"
    assert shown[sample_key(f"{name}_count")] == ROUNDS
    seconds = sum(record.seconds for record in trained)
    assert shown[sample_key(f"{name}_sum")] == pytest.approx(seconds)
    took_part = sample_key("moma_federation_sites", state="took_part")
    assert shown[took_part] == len(trained[-1].took_part)


def test_prometheus_has_what_each_site_asked_and_the_teacher_charged(
    watched_run: WholeRun,
) -> None:
    logged = logged_numbers(watched_run.world.teacher_config())

    for site in SITES:
        shown = watched_run.prometheus.shown(site)
        asked = shown[sample_key("moma_client_patches_total", source="teacher")]
        assert asked == GOLDEN + watched_run.world.asked(site, epochs=ROUNDS)
        name = "moma_teacher_patches_total"
        assert asked == logged[sample_key(name, site=site, teacher=TEACHER)]


def test_the_relay_carried_what_its_site_sent_and_nothing_of_the_other(
    watched_run: WholeRun,
) -> None:
    carried = _numbers(watched_run, COORDINATOR_JOB, "moma_relay_bytes_total")
    page = read_samples(watched_run.pages[RELAYED])
    sent = page[sample_key("moma_client_egress_bytes_total", channel="teacher")]

    labels = {"site": RELAYED, "teacher": TEACHER}
    to_teacher, to_site = (
        sample_key("moma_relay_bytes_total", **labels, direction=direction)
        for direction in ("to_teacher", "to_site")
    )
    assert set(carried) == {to_teacher, to_site}
    assert carried[to_teacher] >= sent


def test_every_metric_of_the_contract_is_shown_by_its_program(
    watched_run: WholeRun,
) -> None:
    refused = ask(watched_run.world, "site-a", patches=0)  # which costs nothing
    assert refused == "MalformedRequestError"
    denial = sample_key(
        "moma_teacher_denied_total", site="site-a", teacher=TEACHER, reason="malformed"
    )

    # a call that is broken off counts as too large, and nobody's
    until(
        lambda: watched_run.prometheus.shown(TEACHER_JOB).get(denial) == 1,
        seconds=_SCRAPE_SECONDS,
        what=f"{TEACHER_JOB} shows {denial}",
    )

    for job, contract in _CONTRACT.items():
        shown = _labels(watched_run, job)
        # to Prometheus an empty label, as that of nobody's site, is none
        most = {name: max(shown.get(name, [set()]), key=len) for name in contract}
        assert most == dict(contract)


def _figures_of(records: list[RoundRecord]) -> dict[SampleKey, float]:
    """Returns what the coordinator shows of each site: the newest of each figure."""
    figures: dict[SampleKey, float] = {}
    for record in records:
        for site, entry in record.sites.items():
            for name, value in entry.metrics.items():
                figures[sample_key("moma_site_metric", site=site, metric=name)] = value
            if entry.answered_at is not None:
                seen = sample_key("moma_site_last_seen_timestamp_seconds", site=site)
                figures[seen] = entry.answered_at
    return {key: value for key, value in figures.items() if value}


def _labels(run: WholeRun, job: str) -> dict[str, list[set[str]]]:
    """Returns the sets of labels with which each metric of a job is shown."""
    found: dict[str, list[set[str]]] = defaultdict(list)
    for name, pairs in run.prometheus.shown(job):
        labels = {label for label, _ in pairs}
        if labels not in found[name]:
            found[name].append(labels)
    return found
