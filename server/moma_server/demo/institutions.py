"""Makes the demo's four institutions from the files that `init` writes."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moma_core.end_to_end.signatures import SigningKey
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.licence import terms_digest
from moma_server.config.server import read_yaml, write_yaml
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
        edge: The coordinator's port for the rounds.
        teacher: The teacher's port for queries.
        enrolment: The coordinator's port for new members.
        metrics: Port of the metrics page, by institution.
    """

    edge: int
    teacher: int
    enrolment: int
    metrics: dict[str, int]

    @classmethod
    def free(cls) -> "Ports":
        """Returns ports that nobody listens at right now."""
        names = ("coordinator", TEACHER, *SITES)
        sockets = [socket.socket() for _ in range(3 + len(names))]
        for one in sockets:
            one.bind((_HOST, 0))
        numbers = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        edge, teacher, enrolment, *metrics = numbers
        return cls(edge, teacher, enrolment, dict(zip(names, metrics, strict=True)))


def make_institutions(out: Path, tissue: Tissue, ports: Ports) -> None:
    """Writes four folders: coordinator, teacher and two sites.

    Keys are made in the folder of their owner, and stay there.

    Raises:
        DemoError: A program refused.
    """
    log = out / "logs" / "init.log"
    hosts = ("--host", _HOST, "--host", "localhost")
    coordinator, teacher = out / "coordinator", out / TEACHER
    run_program(SERVER, ("init", coordinator, "--roles", "coordinator", *hosts), log)
    who = ("--roles", "teacher", "--name", TEACHER_NAME)
    elsewhere = ("--enrolment", f"{_HOST}:{ports.enrolment}")
    run_program(SERVER, ("init", teacher, *who, *elsewhere), log)
    for site in SITES:
        places = (
            *("--coordinator", f"{_HOST}:{ports.edge}"),
            *("--teacher", TEACHER_NAME),
            *("--teacher-address", f"{_HOST}:{ports.teacher}"),
            *elsewhere,
            *("--teacher-key", _fingerprint(teacher)),
        )
        run_program(CLIENT, ("init", out / site, "--name", site, *places), log)
    _configure_coordinator(coordinator, ports)
    _configure_teacher(teacher, tissue, ports)
    for site in SITES:
        _configure_site(out / site, site, tissue, ports)


def enrol_institutions(out: Path) -> None:
    """Gives teacher and sites their place: a token from the coordinator, which runs.

    Raises:
        DemoError: A program refused.
    """
    log = out / "logs" / "enrol.log"
    hosts = ("--host", _HOST, "--host", "localhost")
    token = _token(out, (TEACHER_NAME, "--teacher", *hosts), log)
    config = out / TEACHER / "server.yaml"
    run_program(SERVER, ("enrol", "--config", config, "--token", "-"), log, token)
    for site in SITES:
        token = _token(out, (site,), log)
        run_program(CLIENT, ("enrol", out / site, "--token", "-"), log, token)
        key = ("--key", _fingerprint(out / site))
        run_program(SERVER, ("site", "approve", site, *key, "--config", config), log)


def _fingerprint(institution: Path) -> str:
    """Returns a public key; it goes from owner to owner, not by the coordinator."""
    return str(SigningKey.load(institution / "signing.key").public)


def _token(out: Path, who: tuple[str, ...], log: Path) -> str:
    config = ("--config", out / "coordinator" / "server.yaml")
    return run_program(SERVER, ("token", "create", *who, *config), log).strip()


def accept_terms(out: Path) -> str:
    """Accepts the made teacher's terms at both sites, as their operators would.

    Returns:
        The licence's name.
    """
    card = TeacherCard.load(out / TEACHER / "teacher" / "card.json")
    if card.licence is None:
        return "none"
    for site in SITES:
        path = out / site / "config.yaml"
        values = _read(path)
        digest = terms_digest(card.name, card.licence)
        values["teacher"]["accepted_terms"] = digest
        write_yaml(path, values)
    return card.licence.name


def _configure_coordinator(folder: Path, ports: Ports) -> None:
    values = _read(folder / "server.yaml")
    values["metrics"]["port"] = ports.metrics["coordinator"]
    values["coordinator"]["listen"] = {"host": _HOST, "port": ports.edge}
    values["coordinator"]["enrolment"]["listen"] = {
        "host": _HOST,
        "port": ports.enrolment,
    }
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
    # The demo's tissue is public and names no patient: its patches are counted.
    values["egress"]["unknown_patients"] = "each"
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
