"""A coordinator in this process and sites as processes, all on loopback."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

from prometheus_client import CollectorRegistry

from moma_client.federation.node import NodeSettings
from moma_core.pki.key_files import create_node_key
from moma_core.runtime.files import write_private
from moma_proto.bundle import bundle_bytes
from moma_server.config.federation_plan import FederationPlan
from moma_server.federation.coordinator import Coordinator, CoordinatorSettings
from moma_server.federation.edge.server import EdgeSettings
from moma_server.federation.run.records import RecordFile, RoundRecord
from moma_server.membership.members import register_site
from moma_server.metrics.metrics import FederationMetrics
from tests.support.federation.pki import CredentialFiles, Pki
from tests.support.machine.waiting import wait_for as wait_for

# SuperLink takes back a start of more than 30 s, as on a busy machine, and tries again
_PROJECT = Path(__file__).resolve().parents[3]

START_SECONDS = 120.0

_LOGS = ("log", "run.log", "superlink.log")
_SHOWN_BYTES = 2000


def other_bundle() -> bytes:
    """Returns a bundle that names our own components and is not ours."""
    with zipfile.ZipFile(io.BytesIO(bundle_bytes())) as ours:
        text = ours.read("pyproject.toml").replace(b"1.0.0", b"9.9.9")
    content = f"pyproject.toml,{hashlib.sha256(text).hexdigest()},{len(text) * 8}"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("pyproject.toml", text)
        bundle.writestr(".info/CONTENT", content)
    return archive.getvalue()


def longest(plan: FederationPlan) -> float:
    """Returns the seconds in which a run of `plan` ends, if each round is tried once.

    A round may last to its deadline: what Flower loses is asked again after 30 s.
    """
    return START_SECONDS + plan.rounds * plan.deadline_seconds + plan.close_seconds


class World:
    """One federation in a folder; `close` ends every process that it started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        pki = Pki()
        credential = pki.issue(
            "coordinator", "coordinator", hosts=("localhost", "127.0.0.1")
        )
        self.files: CredentialFiles = pki.write(folder / "coordinator", credential)
        self.registry = CollectorRegistry()
        self.sites: dict[str, subprocess.Popen[bytes]] = {}
        self._coordinators: list[Coordinator] = []

    def coordinator(self, plan: FederationPlan, port: int = 0) -> Coordinator:
        settings = CoordinatorSettings(
            folder=self.folder / "state",
            registry=self.folder / "sites",
            plan=plan,
            edge=EdgeSettings(
                host="127.0.0.1",
                port=port,
                certificate=self.files.certificate,
                key=self.files.key,
            ),
        )
        self.registry = CollectorRegistry()
        coordinator = Coordinator(settings, FederationMetrics(self.registry))
        self._coordinators.append(coordinator)
        coordinator.start()
        return coordinator

    def admit(self, site: str) -> Path:
        """Makes a site's node key and tells the coordinator; returns the file."""
        folder = self.folder / site
        folder.mkdir(exist_ok=True)
        key = create_node_key()
        write_private(folder / "node.key", key.private)
        register_site(self.folder / "sites", site, key.public)
        return folder / "node.key"

    def settings(self, site: str, port: int) -> NodeSettings:
        return NodeSettings(
            address=f"127.0.0.1:{port}",
            ca_certificate=self.files.ca,
            node_key=self.folder / site / "node.key",
            folder=self.folder / site / "node",
            poll_seconds=0.1,
            stop_seconds=3.0,
        )

    def run_site(self, site: str, port: int, **script: object) -> None:
        """Starts a site's process; the name stands for it from now on."""
        arguments = {
            "settings": self.settings(site, port).to_json(),
            "journal": str(self.folder / site / "journal"),
            **script,
        }
        # by its module: a library installs a package of the name `tests`
        program = ("-m", "tests.support.federation.fake_site")
        with (self.folder / site / "log").open("ab") as log:
            self.sites[site] = subprocess.Popen(
                [sys.executable, *program, json.dumps(arguments)],
                cwd=_PROJECT,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def journal(self, site: str) -> list[str]:
        path = self.folder / site / "journal"
        return path.read_text().splitlines() if path.exists() else []

    def records(self) -> list[RoundRecord]:
        return self.records_of(self.folder / "state" / "records.jsonl")

    def records_of(self, path: Path) -> list[RoundRecord]:
        return RecordFile(path).read()

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def cut_power(self, site: str) -> None:
        """Kills a site's session and its node in the same moment."""
        session = self.sites[site]
        children = Path(f"/proc/{session.pid}/task/{session.pid}/children")
        threads = children.parents[1].glob("*/children")
        nodes = [int(pid) for path in threads for pid in path.read_text().split()]
        for pid in (session.pid, *nodes):
            os.kill(pid, signal.SIGKILL)
        session.wait()

    def rounds(self) -> list[RoundRecord]:
        return [record for record in self.records() if record.kind == "train"]

    def close(self) -> None:
        for process in self.sites.values():
            process.terminate()
        for process in self.sites.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for coordinator in self._coordinators:
            coordinator.stop()
        self._print_logs()

    def _print_logs(self) -> None:
        """Prints how the logs end; pytest shows it for a test that failed."""
        for path in sorted(self.folder.rglob("*log")):
            if path.name in _LOGS:
                end = path.read_bytes()[-_SHOWN_BYTES:].decode(errors="replace")
                sys.stdout.write(f"--- {path.relative_to(self.folder)}\n{end}\n")
