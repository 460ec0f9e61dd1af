"""A whole run in mode `independent`, and what everybody can see of it afterwards."""

import json
import re
import subprocess

import pytest

from moma_client.audit.receipts import receipts_path
from moma_client.cli.main import main as moma_client
from moma_client.config.site import SiteConfig
from moma_server.config.server import ServerConfig
from moma_server.metrics.metrics import read_samples, sample_key
from moma_server.state import budget_store
from tests.support.e2e.programs import ended
from tests.support.e2e.whole_run import GOLDEN, GRANT, ROUNDS, WholeRun
from tests.support.e2e.world import SITES, TEACHER, as_json
from tests.support.machine.needs import needs_program

pytestmark = pytest.mark.timeout(1800)  # of the whole run, on a busy machine

IDENTIFIER = r"patient|slide|png|/|[0-9a-f]{8}"  # of a person, a file, a request


@pytest.fixture
def run(watched_run: WholeRun) -> WholeRun:
    return watched_run


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
