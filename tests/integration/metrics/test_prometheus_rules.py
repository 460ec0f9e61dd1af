"""What lies in deploy/prometheus, held against Prometheus' own tools."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from moma_server.config.server import read_yaml
from tests.support.machine.exposed_metrics import of_the_client, of_the_server
from tests.support.machine.needs import needs_program

PROMETHEUS = Path(__file__).resolve().parents[3] / "deploy" / "prometheus"

_METRIC = re.compile(r"\bmoma_[a-z_]+\b")
_TESTS = ("tests.yml", "tests-site.yml")


def _run(program: Path, *arguments: str, folder: Path = PROMETHEUS) -> str:
    done = subprocess.run(
        [program, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _yaml(name: str) -> Any:
    return read_yaml(PROMETHEUS / name)


def _rules() -> list[dict[str, Any]]:
    return [
        rule
        for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
        for group in _yaml(f"rules/{path.name}")["groups"]
        for rule in group["rules"]
    ]


def _alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in _rules() if "alert" in rule}


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-site.yml"])
def test_the_configuration_is_valid(name: str, tmp_path: Path) -> None:
    (promtool,) = needs_program("promtool")
    folder = tmp_path / "prometheus"
    shutil.copytree(PROMETHEUS, folder)
    for secret in ("ca.pem", "coordinator.token", "teacher.token"):
        (folder / secret).touch()  # promtool looks whether they are there

    assert "SUCCESS" in _run(promtool, "check", "config", name, folder=folder)


@pytest.mark.parametrize("name", _TESTS)
def test_each_alert_fires_and_keeps_quiet_as_its_tests_say(name: str) -> None:
    (promtool,) = needs_program("promtool")

    assert "SUCCESS" in _run(promtool, "test", "rules", name)


def test_each_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    fires, quiet = set(), set()
    for name in _TESTS:
        for case in _yaml(name)["tests"]:
            for look in case["alert_rule_test"]:
                (fires if look["exp_alerts"] else quiet).add(look["alertname"])

    assert fires == quiet == set(_alerts())


def test_each_alert_says_what_it_is_and_what_to_do() -> None:
    headings = re.findall(r"^### (\w+)$", (PROMETHEUS / "README.md").read_text(), re.M)

    assert set(headings) == set(_alerts())
    for name, rule in _alerts().items():
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"README.md#{name.lower()}"
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}


def test_the_rules_look_at_metrics_that_the_programs_show() -> None:
    asked = {name for rule in _rules() for name in _METRIC.findall(rule["expr"])}

    assert asked <= of_the_server() | of_the_client()


def test_no_alert_is_sent_to_nobody_by_a_misspelt_name() -> None:
    text = (PROMETHEUS / "alertmanager.yml").read_text()

    assert set(re.findall(r"Moma\w+", text)) <= set(_alerts())


def test_the_alertmanager_example_is_valid() -> None:
    (amtool,) = needs_program("amtool")

    assert "SUCCESS" in _run(amtool, "check-config", "alertmanager.yml")


def test_servers_are_scraped_over_tls_13_with_a_token() -> None:
    for job in _yaml("prometheus.yml")["scrape_configs"]:
        assert job["scheme"] == "https"
        assert job["authorization"]["credentials_file"].endswith(".token")
        assert job["tls_config"]["min_version"] == "TLS13"
        assert "insecure_skip_verify" not in job["tls_config"]


def test_a_site_is_scraped_by_nobody_but_itself() -> None:
    site = _yaml("prometheus-site.yml")
    (job,) = site["scrape_configs"]

    assert job["static_configs"] == [{"targets": ["127.0.0.1:9465"]}]
    assert {"remote_write", "remote_read"}.isdisjoint(site)
    assert "moma_client" not in (PROMETHEUS / "rules" / "alerts.yml").read_text()
