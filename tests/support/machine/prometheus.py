"""A real Prometheus on loopback, made of the configuration that is shipped."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from moma_core.runtime.files import write_private
from moma_server.config.server import read_yaml, write_yaml
from moma_server.metrics.metrics import SampleKey
from tests.support.machine.needs import needs_program
from tests.support.machine.ports import LOOPBACK, free_port

PROMETHEUS = Path(__file__).resolve().parents[3] / "deploy" / "prometheus"

_OWN_LABELS = {"__name__", "instance", "job"}
_STOP_SECONDS = 20.0


class Target(NamedTuple):
    """A page to scrape.

    Args:
        job: One of the shipped configuration.
        port: On loopback.
        ca: Whose certificates are believed; None: the page is bare, on loopback.
        token: Of its page, where certificates are.
    """

    job: str
    port: int
    ca: Path | None = None
    token: bytes = b""


class Prometheus:
    """Scrapes every second; a `with` block starts and ends it.

    Args:
        folder: For its configuration and its data.
        targets: Other jobs of the shipped configuration are left out.
    """

    def __init__(self, folder: Path, targets: Sequence[Target]) -> None:
        (self._program,) = needs_program("prometheus")
        self._folder = folder
        folder.mkdir()
        write_yaml(folder / "prometheus.yml", _configuration(folder, targets))
        address = f"{LOOPBACK}:{free_port()}"
        self._http = httpx.Client(
            base_url=f"http://{address}", timeout=20, trust_env=False
        )
        self._line = [
            str(self._program),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        ]

    def __enter__(self) -> "Prometheus":
        self._log = (self._folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            self._line, stdout=self._log, stderr=self._log, cwd=self._folder
        )
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._http.close()

    def asked(self, path: str, **parameters: str) -> Any:
        """Returns the data of one call of its HTTP API; None while it starts."""
        if self._process.poll() is not None:
            raise AssertionError((self._folder / "prometheus.log").read_text())
        try:
            answer = self._http.get(f"/api/v1/{path}", params=parameters)
        except httpx.TransportError:
            return None
        return answer.json()["data"] if answer.is_success else None

    def samples(self, expression: str) -> dict[SampleKey, float]:
        """Returns an expression's value now, by name and labels, without its zeros."""
        found = self.asked("query", query=expression) or {"result": []}
        return {
            _key(one["metric"]): float(one["value"][1])
            for one in found["result"]
            if float(one["value"][1])
        }

    def shown(self, job: str) -> dict[SampleKey, float]:
        """Returns all that a job's page ever showed, the newest of each; its zeros too.

        Also of a program that is over.
        """
        expression = f'last_over_time({{job="{job}", __name__=~"moma_.*"}}[1h])'
        found = self.asked("query", query=expression) or {"result": []}
        return {_key(one["metric"]): float(one["value"][1]) for one in found["result"]}

    def up(self, job: str) -> bool:
        """Whether the newest scrape of a job succeeded."""
        return bool(self.samples(f'up{{job="{job}"}} == 1'))

    def fault(self, job: str) -> str:
        """Returns why a job's target cannot be scraped."""
        found = self.asked("targets") or {"activeTargets": []}
        return "".join(
            target["lastError"]
            for target in found["activeTargets"]
            if target["labels"]["job"] == job
        )


def _key(metric: Mapping[str, str]) -> SampleKey:
    labels = {k: v for k, v in metric.items() if k not in _OWN_LABELS}
    return metric.get("__name__", ""), frozenset(labels.items())


def _configuration(folder: Path, targets: Sequence[Target]) -> dict[str, Any]:
    shipped: Any = read_yaml(PROMETHEUS / "prometheus.yml")
    jobs = {job["job_name"]: job for job in shipped["scrape_configs"]}
    chosen = []
    for number, target in enumerate(targets):
        at = [{"targets": [f"{LOOPBACK}:{target.port}"]}]
        if target.ca is None:
            chosen.append({"job_name": target.job, "static_configs": at})
            continue
        token = folder / f"{number}.token"
        write_private(token, target.token)
        job = jobs.get(target.job, jobs["moma-teacher"])
        tls = {**job["tls_config"], "ca_file": str(target.ca)}
        chosen.append(
            {
                **job,
                "job_name": target.job,
                "authorization": {"credentials_file": str(token)},
                "tls_config": {**tls, "server_name": "localhost"},
                "static_configs": at,
            }
        )
    often = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    return {
        "global": {**often, "evaluation_interval": "1s"},
        "rule_files": [str(PROMETHEUS / name) for name in shipped["rule_files"]],
        "scrape_configs": chosen,
    }
