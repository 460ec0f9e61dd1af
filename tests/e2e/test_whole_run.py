"""A whole run in mode `independent`, and what everybody can see of it afterwards."""

import json
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from moma_client.audit.receipts import receipts_path
from moma_client.cli.main import main as moma_client
from moma_client.config.site import SiteConfig
from moma_server.config.server import ServerConfig
from moma_server.federation.run.records import RoundRecord
from moma_server.metrics.metrics import SampleKey, read_samples, sample_key
from moma_server.state import budget_store
from tests.support.e2e.asking import ask
from tests.support.e2e.planted import NAMES, found_in, secrets_of
from tests.support.e2e.programs import ended, until
from tests.support.e2e.watched import TEACHER_JOB, logged_numbers
from tests.support.e2e.whole_run import (
    COORDINATOR_JOB,
    GOLDEN,
    GRANT,
    RELAYED,
    ROUNDS,
    WholeRun,
    whole_run,
)
from tests.support.e2e.world import SITES, TEACHER, as_json
from tests.support.machine.needs import needs_program

pytestmark = pytest.mark.timeout(1800)  # of the whole run, on a busy machine

IDENTIFIER = r"patient|slide|png|/|[0-9a-f]{8}"  # of a person, a file, a request


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
    "moma_client_teacher_patches_total": {"teacher"},
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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Iterator[WholeRun]:
    with whole_run(tmp_path_factory.mktemp("whole"), teacher) as run:
        yield run


def test_both_sites_take_part_in_every_round_and_end_well(run: WholeRun) -> None:
    records = run.world.records()

    kinds = [(record.kind, record.round, record.outcome) for record in records]

    assert run.exits == dict.fromkeys(SITES, 0)
    assert kinds == [
        ("train", 1, "completed"),
        ("train", 2, "completed"),
        ("close", 2, "completed"),
        ("run", 2, "finished"),
    ]
    assert all(record.took_part == list(SITES) for record in records[:-1])


def test_the_sites_compared_what_they_were_shown_of_the_teachers_log(
    run: WholeRun,
) -> None:
    told = [
        (site, entry.checkpoint is not None)
        for record in run.world.records()[:-1]
        for site, entry in record.sites.items()
    ]
    files = [
        receipts_path(_config(run, site).state_dir, TEACHER).with_suffix(".seen.json")
        for site in SITES
    ]
    seen = [json.loads(path.read_text("utf-8")) for path in files]

    assert told == [(site, True) for _ in range(ROUNDS + 1) for site in SITES]
    assert [each["others"] for each in seen] == [[], []]  # what they saw is proved
    assert seen[0]["newest"]["origin"] == seen[1]["newest"]["origin"]


def _config(run: WholeRun, site: str) -> SiteConfig:
    return SiteConfig.from_yaml(run.world.folder / site / "config.yaml")


def test_the_servers_commands_tell_what_happened(run: WholeRun) -> None:
    config = run.world.folder / "coordinator" / "server.yaml"

    status = ended("moma-server", "status", "--json", "--config", config)
    sites = ended("moma-server", "sites", "--json", "--config", config)
    lines = ended("moma-server", "status", "--config", config)

    told = as_json(status.stdout)["run"]
    assert (told["completed"], told["outcome"]) == (ROUNDS, "finished")
    assert [round_["took_part"] for round_ in told["history"]] == [list(SITES)] * 3
    members = [
        (row["kind"], row["name"], row["state"]) for row in as_json(sites.stdout)
    ]
    assert members == [
        ("coordinator", "coordinator", "admitted"),
        *(("site", site, "admitted") for site in SITES),
        ("teacher", TEACHER, "admitted"),
    ]
    assert f"run: {ROUNDS} of {ROUNDS} rounds, finished" in lines.stdout


def test_a_site_evaluates_its_students_after_the_run(
    run: WholeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run.world.folder / "site-a" / "config.yaml"

    status = moma_client(["evaluate", "--json", "--site", str(config)])

    figures = as_json(capsys.readouterr().out)
    told = run.world.records()[-2].sites["site-a"].metrics
    assert status == 0
    assert set(figures) == {"moma", "ce"}
    assert figures["ce"]["unseen_macro_f1"] != figures["moma"]["unseen_macro_f1"]
    for name, value in told.items():
        assert figures["moma"][name] == pytest.approx(value, abs=6e-4)


def test_the_coordinator_is_told_only_what_the_egress_policy_names(
    run: WholeRun,
) -> None:
    shares = ("validation_accuracy", "validation_macro_f1")
    records = run.world.rounds()

    told = [record.sites[site].metrics for record in records for site in SITES]

    kept = run.world.student_folder("site-a").parent / "figures.jsonl"
    measured = json.loads(kept.read_text().splitlines()[0])["figures"]
    assert {"ce_validation_accuracy", "validation_ece"} <= set(measured)
    assert all(set(metrics) == set(shares) for metrics in told)
    assert all(value == round(value, 3) for one in told for value in one.values())


def test_plan_ledger_prometheus_and_site_agree_on_the_patches(run: WholeRun) -> None:
    config = ServerConfig.from_yaml(run.world.folder / "teacher" / "server.yaml")
    assert config.teacher is not None
    ledger = budget_store(config, config.teacher)
    page = run.teacher.samples()
    labels = {"teacher": TEACHER}

    for site in SITES:
        asked = GOLDEN + run.world.asked(site, epochs=ROUNDS)
        own = read_samples(run.pages[site])
        assert own[sample_key("moma_client_patches_total", source="teacher")] == asked
        assert ledger.charged(site) == asked
        key = sample_key("moma_teacher_patches_total", site=site, **labels)
        assert page[key] == asked
        key = sample_key("moma_teacher_budget_remaining_ratio", site=site, **labels)
        assert page[key] == pytest.approx(1 - asked / GRANT)
    ledger.close()


def test_no_name_of_a_patient_slide_or_file_leaves_its_site(run: WholeRun) -> None:
    folder, own, names = run.world.folder, SITES[0], [n.encode() for n in NAMES]
    said = "".join([*run.lines, *run.pages.values(), run.teacher.page()])
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and folder / own not in path.parents
    ]

    held = {path: found_in(path.read_bytes(), names) for path in files}

    assert len(files) > 50
    assert not found_in((said + run.coordinator.page()).encode(), names)
    assert {path for path, found in held.items() if found} == set()
    manifest = folder / own / "patches" / "manifest.csv"
    assert found_in(manifest.read_bytes(), names) == set(names)  # they can be found


def test_no_key_token_or_passphrase_is_where_it_does_not_belong(run: WholeRun) -> None:
    folder, needles = run.world.folder, secrets_of(run.world)
    said = [*run.lines, *run.pages.values(), run.teacher.page(), run.coordinator.page()]
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".key" and path.name != "passphrase"
    ]

    found = {f"{path}": found_in(path.read_bytes(), needles) for path in files}
    found |= {text[:200]: found_in(text.encode(), needles) for text in said}

    assert len(needles) > 20
    assert [(where, needles[n]) for where, each in found.items() for n in each] == []
    open_to_others = [
        path for path in folder.rglob("*.key") if path.stat().st_mode & 63
    ]
    assert open_to_others == []


def test_nothing_is_counted_as_denied_in_a_run_without_trouble(run: WholeRun) -> None:
    assert "moma_teacher_denied_total{" not in run.teacher.page()


def test_no_page_holds_an_identifier(run: WholeRun) -> None:
    for page in (run.coordinator.page(), run.teacher.page(), run.pages["site-a"]):
        labels = [
            value.replace("/", " ") if name == "subject" else value  # kind and name
            for _, pairs in read_samples(page)
            for name, value in pairs
        ]
        assert labels
        assert not [value for value in labels if re.search(IDENTIFIER, value)]


def test_promtool_accepts_every_page(run: WholeRun) -> None:
    (promtool,) = needs_program("promtool")
    pages = [run.coordinator.page(), run.teacher.page(), run.pages["site-a"]]

    checks = [
        subprocess.run(
            [promtool, "check", "metrics"],
            input=page,
            text=True,
            capture_output=True,
            timeout=30,
            check=False,
        )
        for page in pages
    ]

    assert [check.stderr + check.stdout for check in checks] == ["", "", ""]
    assert [check.returncode for check in checks] == [0, 0, 0]


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


def test_prometheus_has_what_the_teachers_log_says(run: WholeRun) -> None:
    logged = logged_numbers(run.world.teacher_config())

    assert {key for key in logged if key[0] == "moma_teacher_patches_total"} == {
        sample_key("moma_teacher_patches_total", site=site, teacher=TEACHER)
        for site in SITES
    }
    _sees(run, TEACHER_JOB, logged)


def test_prometheus_has_what_the_records_of_the_rounds_say(
    run: WholeRun,
) -> None:
    records = run.world.records()
    trained = [record for record in records if record.kind == "train"]
    outcomes = Counter(record.outcome for record in trained)

    _sees(run, COORDINATOR_JOB, _figures_of(records))
    rounds = {
        sample_key("moma_federation_rounds_total", outcome=outcome): float(count)
        for outcome, count in outcomes.items()
    }
    _sees(run, COORDINATOR_JOB, rounds)
    assert sum(outcomes.values()) == ROUNDS
    shown = run.prometheus.shown(COORDINATOR_JOB)
    name = "moma_federation_round_duration_seconds"
    assert shown[sample_key(f"{name}_count")] == ROUNDS
    seconds = sum(record.seconds for record in trained)
    assert shown[sample_key(f"{name}_sum")] == pytest.approx(seconds)
    took_part = sample_key("moma_federation_sites", state="took_part")
    assert shown[took_part] == len(trained[-1].took_part)


def test_prometheus_has_what_each_site_asked_and_the_teacher_charged(
    run: WholeRun,
) -> None:
    logged = logged_numbers(run.world.teacher_config())

    for site in SITES:
        shown = run.prometheus.shown(site)
        asked = shown[sample_key("moma_client_patches_total", source="teacher")]
        assert asked == GOLDEN + run.world.asked(site, epochs=ROUNDS)
        name = "moma_teacher_patches_total"
        assert asked == logged[sample_key(name, site=site, teacher=TEACHER)]


def test_the_relay_carried_what_its_site_sent_and_nothing_of_the_other(
    run: WholeRun,
) -> None:
    carried = _numbers(run, COORDINATOR_JOB, "moma_relay_bytes_total")
    page = read_samples(run.pages[RELAYED])
    sent = page[sample_key("moma_client_egress_bytes_total", channel="teacher")]

    labels = {"site": RELAYED, "teacher": TEACHER}
    to_teacher, to_site = (
        sample_key("moma_relay_bytes_total", **labels, direction=direction)
        for direction in ("to_teacher", "to_site")
    )
    assert set(carried) == {to_teacher, to_site}
    assert carried[to_teacher] >= sent


def test_every_metric_of_the_contract_is_shown_by_its_program(
    run: WholeRun,
) -> None:
    refused = ask(run.world, "site-a", patches=0)  # which costs nothing
    assert refused == "MalformedRequestError"
    denial = sample_key(
        "moma_teacher_denied_total", site="site-a", teacher=TEACHER, reason="malformed"
    )

    # a call that is broken off counts as too large, and nobody's
    until(
        lambda: run.prometheus.shown(TEACHER_JOB).get(denial) == 1,
        seconds=_SCRAPE_SECONDS,
        what=f"{TEACHER_JOB} shows {denial}",
    )

    for job, contract in _CONTRACT.items():
        shown = _labels(run, job)
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
