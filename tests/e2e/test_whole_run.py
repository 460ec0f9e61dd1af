"""A whole run in mode `independent`, and what everybody can see of it afterwards."""

import json
import re
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from moma_client.cli import main as moma_client
from moma_server.config import ServerConfig
from moma_server.metrics import read_samples, sample_key
from moma_server.state import budget_ledger
from tests.e2e.programs import LOOPBACK, Program, ended, until
from tests.e2e.world import RUN_SECONDS, SITES, TEACHER, World, as_json
from tests.needs import needs_program

pytestmark = pytest.mark.timeout(700)  # of the whole run, on a busy machine

ROUNDS = 2
GRANT = 1000

TEACHER_METRICS = (
    "moma_teacher_requests_total",
    "moma_teacher_patches_total",
    "moma_teacher_budget_patches",
    "moma_teacher_budget_remaining_ratio",
    "moma_teacher_request_duration_seconds_bucket",
    "moma_teacher_queue_duration_seconds_bucket",
    "moma_teacher_batch_size_bucket",
    "moma_teacher_inflight_requests",
    "moma_build_info",
)
COORDINATOR_METRICS = (
    "moma_federation_rounds_total",
    "moma_federation_round_duration_seconds_bucket",
    "moma_federation_sites",
    "moma_site_metric",
    "moma_site_last_seen_timestamp_seconds",
    "moma_build_info",
)
CLIENT_METRICS = (
    "moma_client_step_duration_seconds_bucket",
    "moma_client_loss",
    "moma_client_patches_total",
    "moma_client_egress_bytes_total",
    "moma_client_egress_blocked_total",
    "moma_client_teacher_wait_seconds_total",
    "moma_build_info",
)
IDENTIFIER = r"patient|slide|png|/|[0-9a-f]{8}"  # of a person, a file, a request

GOLDEN = 1  # the card's patch, asked before the first step


@dataclass
class Run:
    """A run that is over; its servers still serve."""

    world: World
    coordinator: Program
    teacher: Program
    exits: dict[str, int] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)  # newest of each client


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Iterator[Run]:
    world = World(
        tmp_path_factory.mktemp("whole"),
        teacher,
        plan={"rounds": ROUNDS},
        grants=dict.fromkeys(SITES, GRANT),
    )
    for site in SITES:
        world.configure(site, baselines=["ce"])
    try:
        run = Run(world, *world.serve_both())
        clients = [world.take_part(site) for site in SITES]

        def all_ended() -> bool:
            for client in clients:
                run.pages[client.name] = client.page() or run.pages.get(client.name, "")
            return all(client.process.poll() is not None for client in clients)

        until(all_ended, seconds=RUN_SECONDS, what="both sites are done")
        run.exits = {client.name: client.status(seconds=1) for client in clients}
        yield run
    finally:
        world.close()


def test_both_sites_take_part_in_every_round_and_end_well(run: Run) -> None:
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


def test_the_servers_commands_tell_what_happened(run: Run) -> None:
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
    run: Run, capsys: pytest.CaptureFixture[str]
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


def test_the_coordinator_is_told_only_what_the_egress_policy_names(run: Run) -> None:
    shares = ("validation_accuracy", "validation_macro_f1")
    records = run.world.rounds()

    told = [record.sites[site].metrics for record in records for site in SITES]

    kept = run.world.student_folder("site-a").parent / "figures.jsonl"
    measured = json.loads(kept.read_text().splitlines()[0])["figures"]
    assert {"ce_validation_accuracy", "validation_ece"} <= set(measured)
    assert all(set(metrics) == set(shares) for metrics in told)
    assert all(value == round(value, 3) for one in told for value in one.values())


def test_plan_ledger_prometheus_and_site_agree_on_the_patches(run: Run) -> None:
    config = ServerConfig.from_yaml(run.world.folder / "teacher" / "server.yaml")
    assert config.teacher is not None
    ledger = budget_ledger(config, config.teacher)
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


def test_nothing_is_counted_as_denied_in_a_run_without_trouble(run: Run) -> None:
    assert "moma_teacher_denied_total{" not in run.teacher.page()


def test_every_page_holds_its_metrics_and_no_identifier(run: Run) -> None:
    coordinator, teacher = run.coordinator.page(), run.teacher.page()

    for page, names in (
        (coordinator, COORDINATOR_METRICS),
        (teacher, TEACHER_METRICS),
        (run.pages["site-a"], CLIENT_METRICS),
    ):
        assert [
            name
            for name in names
            if f"\n{name}{{" not in page and f"\n{name} " not in page
        ] == []
        labels = [
            value.replace("/", " ") if name == "subject" else value  # kind and name
            for _, pairs in read_samples(page)
            for name, value in pairs
        ]
        assert not [value for value in labels if re.search(IDENTIFIER, value)]
    assert 'moma_federation_rounds_total{outcome="completed"} 2.0' in coordinator
    assert 'moma_federation_sites{state="took_part"} 2.0' in coordinator


def test_promtool_accepts_every_page(run: Run) -> None:
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


def test_prometheus_scrapes_the_servers_and_answers(run: Run, tmp_path: Path) -> None:
    (prometheus,) = needs_program("prometheus")
    port = run.world.free_port()
    config = tmp_path / "prometheus.yml"
    targets = [
        f"{LOOPBACK}:{one.metrics_port}" for one in (run.coordinator, run.teacher)
    ]
    jobs = [{"job_name": "moma", "static_configs": [{"targets": targets}]}]
    config.write_text(
        json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs})
    )
    address = f"{LOOPBACK}:{port}"
    process = subprocess.Popen(
        [
            *(prometheus, f"--config.file={config}"),
            *(f"--storage.tsdb.path={tmp_path / 'data'}", "--log.level=error"),
            f"--web.listen-address={address}",
        ]
    )
    try:
        until(
            lambda: len(_asked(address, "up == 1")) == 2,
            seconds=30,
            what="both servers are scraped",
        )
        found = _asked(address, "sum by (site) (moma_teacher_patches_total)")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)

    charged = {one["metric"]["site"]: float(one["value"][1]) for one in found}
    asked = {site: GOLDEN + run.world.asked(site, epochs=ROUNDS) for site in SITES}
    assert charged == asked


def _asked(address: str, query: str) -> list[Any]:
    """Returns Prometheus' answer to a query; nothing while it cannot answer."""
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found: list[Any] = json.load(answer)["data"]["result"]
    except OSError:
        return []
    return found
