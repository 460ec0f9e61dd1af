"""Makes the demo's four institutions from the files that `init` writes."""

import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moma_core.trust.signing import SigningKey
from moma_server.config import read_yaml, write_yaml
from moma_server.demo.programs import CLIENT, SERVER, run_program
from moma_server.demo.tissue import SITES, TEACHER, Tissue, write_share

ROUNDS, LOCAL_EPOCHS = 3, 4
VIEW_SIZE_PX = 48
BUDGET_PATCHES = 6000
TEACHER_NAME = "teacher-a"

_TEACHER_EPOCHS = 14
_HOST = "127.0.0.1"
_MODEL = {"architecture": "tf_efficientnet_lite0", "weights": "packaged"}
_TRAINING = {
    "batch_size": 32,
    "learning_rate": 0.02,
    "warmup_steps": 20,
    "threads": 1,
    "checkpoint_every_steps": 25,
}


@dataclass(frozen=True, slots=True)
class Ports:
    """Free ports of this machine.

    Args:
        edge: Of the coordinator.
        teacher: Of the teacher.
        metrics: By institution.
    """

    edge: int
    teacher: int
    metrics: dict[str, int]

    @classmethod
    def free(cls) -> "Ports":
        """Returns ports that nobody listens at right now."""
        names = ("coordinator", TEACHER, *SITES)
        sockets = [socket.socket() for _ in range(2 + len(names))]
        for one in sockets:
            one.bind((_HOST, 0))
        numbers = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        return cls(numbers[0], numbers[1], dict(zip(names, numbers[2:], strict=True)))


def make_institutions(out: Path, tissue: Tissue, ports: Ports) -> None:
    """Writes four folders: coordinator, teacher and two sites.

    Keys are made in the folder of their owner; certificates are signed by the
    coordinator from what each of them hands over.

    Raises:
        DemoError: A program refused.
    """
    log = out / "logs" / "init.log"
    hosts = ("--host", _HOST, "--host", "localhost")
    coordinator, teacher = out / "coordinator", out / TEACHER
    run_program(SERVER, ("init", coordinator, "--roles", "coordinator", *hosts), log)
    who = ("--roles", "teacher", "--name", TEACHER_NAME)
    run_program(SERVER, ("init", teacher, *who, *hosts), log)
    for site in SITES:
        places = (
            *("--coordinator", f"{_HOST}:{ports.edge}"),
            *("--teacher", TEACHER_NAME),
            *("--teacher-address", f"{_HOST}:{ports.teacher}"),
            *("--teacher-key", _fingerprint(teacher)),
        )
        run_program(CLIENT, ("init", out / site, "--name", site, *places), log)
    _configure_coordinator(coordinator, ports)
    _configure_teacher(teacher, tissue, ports)
    for site in SITES:
        _configure_site(out / site, site, tissue, ports)
    _admit(coordinator, teacher, ("--teacher", TEACHER_NAME, *hosts), log)
    for site in SITES:
        node = ("--site", site, "--node-key", out / site / "node.pub")
        _admit(coordinator, out / site, node, log)
        key = ("--key", _fingerprint(out / site))
        config = ("--config", teacher / "server.yaml")
        run_program(SERVER, ("site", "approve", site, *key, *config), log)


def _fingerprint(institution: Path) -> str:
    """Returns a public key; it goes from owner to owner, not by the coordinator."""
    return str(SigningKey.load(institution / "signing.key").public)


def _admit(
    coordinator: Path, member: Path, who: tuple[str | Path, ...], log: Path
) -> None:
    kind = "teacher" if who[0] == "--teacher" else "site"
    run_program(
        SERVER,
        (
            "admit",
            *("--config", coordinator / "server.yaml"),
            *who,
            *("--csr", member / f"{kind}.csr"),
            *("--out", member / f"{kind}.pem"),
        ),
        log,
    )
    shutil.copy(coordinator / "ca.pem", member / "ca.pem")


def _configure_coordinator(folder: Path, ports: Ports) -> None:
    values = _read(folder / "server.yaml")
    values["metrics"]["port"] = ports.metrics["coordinator"]
    values["coordinator"]["listen"] = {"host": _HOST, "port": ports.edge}
    values["coordinator"]["plan"] |= {
        "rounds": ROUNDS,
        "local_epochs": LOCAL_EPOCHS,
        "quorum": len(SITES),
        "deadline_seconds": 1800,
        "close_seconds": 300,
        "poll_seconds": 0.5,
    }
    write_yaml(folder / "server.yaml", values)


def _configure_teacher(folder: Path, tissue: Tissue, ports: Ports) -> None:
    manifest = write_share(tissue.shares[TEACHER], folder / "patches")
    recipe = _read(folder / "recipe.yaml")
    recipe |= {
        "organ": tissue.organ,
        "task": tissue.task,
        "data": _data(manifest, folder, tissue),
        "views": tissue.views,
        "view_size_px": VIEW_SIZE_PX,
        "model": _MODEL,
        "epochs": _TEACHER_EPOCHS,
        "training": _TRAINING,
    }
    write_yaml(folder / "recipe.yaml", recipe)
    values = _read(folder / "server.yaml")
    values["metrics"]["port"] = ports.metrics[TEACHER]
    values["teacher"]["listen"] = {"host": _HOST, "port": ports.teacher}
    values["teacher"]["threads"] = 1
    values["teacher"]["budget"]["sites"] = dict.fromkeys(SITES, BUDGET_PATCHES)
    write_yaml(folder / "server.yaml", values)


def _configure_site(folder: Path, site: str, tissue: Tissue, ports: Ports) -> None:
    manifest = write_share(tissue.shares[site], folder / "patches")
    values = _read(folder / "config.yaml")
    values |= {
        "task": {"organ": tissue.organ, "task": tissue.task},
        "data": _data(manifest, folder, tissue),
        "views": tissue.views,
        "view_size_px": VIEW_SIZE_PX,
        "student": _MODEL,
        "training": _TRAINING,
    }
    values["metrics"]["port"] = ports.metrics[site]
    figures = values["egress"]["metrics"]
    values["egress"]["metrics"] = [*figures, *(f"ce_{name}" for name in figures)]
    write_yaml(folder / "config.yaml", values)


def _data(manifest: Path, folder: Path, tissue: Tissue) -> dict[str, Any]:
    return {
        "kind": "csv_manifest",
        "path": str(manifest.relative_to(folder)),
        "class_names": list(tissue.class_names),
    }


def _read(path: Path) -> dict[str, Any]:
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise TypeError(f"{path} is none of our files")
    return values
