"""Four institutions in a folder, from the files that `init` writes, all on loopback."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moma_client.cli.init import SiteSetup, init_site
from moma_client.config.site import SiteConfig, SiteIdentity
from moma_client.identity.enrolment import enrol_site
from moma_client.identity.keys import signing_fingerprint
from moma_core.data.augment.recipe import recipe_named
from moma_core.data.patch import TRAIN
from moma_core.data.sampler import BatchPlan, BatchSettings
from moma_core.data.sources.factory import open_source
from moma_core.runtime.files import write_private
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.licence import terms_digest
from moma_server.cli.init import ServerSetup, init_server
from moma_server.cli.membership import join
from moma_server.cli.training_progress import ProgressCallback
from moma_server.config.recipe import TeacherRecipe
from moma_server.config.server import ServerConfig, read_yaml, write_yaml
from moma_server.federation.run.records import RecordFile, RoundRecord
from moma_server.membership.pinned_sites import approve_site, teacher_key
from moma_server.teacher.build.train import train_teacher
from tests.support.e2e.programs import LOOPBACK, Program, command
from tests.support.federation.enrolment_port import new_token, open_desk
from tests.support.federation.world import START_SECONDS
from tests.support.machine.ports import free_port

SITES = ("site-a", "site-b")
TEACHER = "teacher-a"
MODEL = {"architecture": "test_efficientnet", "weights": "random"}

_TRAINING = {"batch_size": 16, "threads": 1, "accelerator": "cpu"}
_SITE = {
    "task": {"organ": "colon", "task": "stain"},
    "views": "geometry_only",
    "view_size_px": 32,
    "student": MODEL,
    "baselines": [],
    "distillation": {"feature_length": 32, "bank_size": 256},
    "training": {**_TRAINING, "checkpoint_every_steps": 2},
}
_PLAN = {
    "rounds": 2,
    "local_epochs": 1,
    "quorum": 2,
    "retries": 0,
    "deadline_seconds": 300,
    "close_seconds": 120,
    "poll_seconds": 0.3,
}

CLOSE_SECONDS = _PLAN["close_seconds"]
# until each round of the plan and its closing have lasted to their deadlines
RUN_SECONDS = (
    START_SECONDS + _PLAN["rounds"] * _PLAN["deadline_seconds"] + CLOSE_SECONDS
)


def make_tiny_teacher(folder: Path) -> None:
    """Trains a teacher for one epoch, as `moma-server teacher train` does."""
    recipe = {
        "name": TEACHER,
        "organ": "colon",
        "task": "stain",
        "data": {"kind": "embedded", "part": "teacher"},
        "views": "geometry_only",
        "view_size_px": 32,
        "model": MODEL,
        "epochs": 1,
        "training": _TRAINING,
    }
    train_teacher(TeacherRecipe.model_validate(recipe), folder, ProgressCallback(None))


class World:
    """A federation in a folder; `close` ends every process that it started.

    Args:
        folder: Of all institutions.
        teacher: Folder of a made teacher.
        plan: What differs from the plan of two short rounds.
        grants: Patches by site.
        sites: Who takes part.
        certificate_hours: How long certificates are good for.

    Attributes:
        environments: What a program gets beside this process's environment, by name.
        on_start: Takes each program when it was started, by name.
    """

    def __init__(
        self,
        folder: Path,
        teacher: Path,
        *,
        plan: Mapping[str, Any] | None = None,
        grants: Mapping[str, int] | None = None,
        sites: Sequence[str] = SITES,
        certificate_hours: float = 720,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.programs: list[Program] = []
        self.environments: dict[str, Mapping[str, str]] = {}
        self.on_start: dict[str, Callable[[Program], object]] = {}
        self.names = tuple(sites)
        places = ("edge", "teach", "enrol", "coordinator", "teacher", *sites)
        self.ports = {place: free_port() for place in places}
        self._make_coordinator(dict(plan or {}), certificate_hours)
        with open_desk(self.coordinator_config()):
            self._make_teacher(teacher, dict(grants or dict.fromkeys(sites, 10_000)))
            for site in sites:
                self._make_site(site)

    # ---------------------------------------------------------------- programs

    def serve(self, name: str) -> Program:
        """Starts `coordinator` or `teacher`; returns at once."""
        config = self.folder / name / "server.yaml"
        return self._start(name, command("moma-server", "--config", config))

    def serve_replica(self, number: int) -> Program:
        """Starts another process of the teacher, with a log and metrics of its own."""
        name = f"replica-{number}"
        self.ports.setdefault(name, free_port())
        values = {**self._values("teacher"), "metrics": {"port": self.ports[name]}}
        config = self.folder / "teacher" / f"{name}.yaml"
        write_yaml(config, values)
        return self._start(name, command("moma-server", "--config", config))

    def take_part(self, site: str) -> Program:
        """Starts a site's client."""
        config = self.folder / site / "config.yaml"
        return self._start(site, command("moma-client", "--site", config))

    def serve_both(self) -> tuple[Program, Program]:
        """Starts coordinator and teacher, and waits until both are ready."""
        coordinator, teacher = self.serve("coordinator"), self.serve("teacher")
        coordinator.shows("moma_federation_sites{")
        teacher.shows("moma_teacher_inflight_requests")
        teacher.listens(self.ports["teach"])
        return coordinator, teacher

    def close(self) -> None:
        """Ends what still runs, clients first."""
        for program in reversed(self.programs):
            program.cleared()

    def _start(self, name: str, line: list[str]) -> Program:
        log, environment = self.folder / f"{name}.log", self.environments.get(name)
        program = Program(name, log, self.ports[name], line, environment)
        self.programs.append(program)
        if name in self.on_start:
            self.on_start[name](program)
        return program

    # ------------------------------------------------------------------- looks

    def records(self) -> list[RoundRecord]:
        """Returns what the coordinator wrote about rounds, oldest first."""
        return RecordFile(self.run_folder / "records.jsonl").read()

    def rounds(self) -> list[RoundRecord]:
        """Returns the records of training rounds."""
        return [record for record in self.records() if record.kind == "train"]

    @property
    def run_folder(self) -> Path:
        """Of the coordinator's run."""
        return self.folder / "coordinator" / "state" / "runs" / "run-1"

    @property
    def enrolment(self) -> str:
        """Where members enrol."""
        return f"{LOOPBACK}:{self.ports['enrol']}"

    def coordinator_config(self) -> ServerConfig:
        """Returns the coordinator's config as it stands."""
        return ServerConfig.from_yaml(self.folder / "coordinator" / "server.yaml")

    def student_folder(self, site: str, method: str = "moma") -> Path:
        """Of a site's student; the run's name is the coordinator's."""
        (folder,) = (self.folder / site / "state" / "runs").glob(f"*/{method}")
        return folder

    def asked(self, site: str, *, epochs: int) -> int:
        """Returns the patches that a site asks of a teacher in its run, by the plan.

        Of each patch as many views as are drawn or kept, or one a draw.
        """
        whole = SiteConfig.from_yaml(self.folder / site / "config.yaml")
        config = whole.each_teacher[0]  # of several each is asked the same
        source = open_source(config.data)
        plan = BatchPlan(
            labelled_rows=source.index.rows(TRAIN, labelled=True),
            unlabelled_rows=source.index.rows(TRAIN, labelled=False),
            settings=BatchSettings(
                batch_size=config.training.batch_size,
                labelled_share=config.training.labelled_share,
                seed=config.training.seed,
                recipe=recipe_named(config.views),
                view_size_px=config.view_size_px,
            ),
        )
        steps = range(epochs * plan.steps_per_epoch)
        assert config.teacher.mode == "frozen"
        if config.kept_views:
            often = [min(config.kept_views, n) for n in plan.passes(len(steps))]
            rows = (source.index.rows(TRAIN, labelled=has) for has in (True, False))
            return sum(n * len(drawn) for n, drawn in zip(often, rows, strict=True))
        return sum(len(plan.rows(step)) for step in steps)

    # ------------------------------------------------------------------- files

    def configure(self, name: str, **sections: Any) -> None:
        """Changes keys of an institution's file; sections are merged one level deep."""
        values = self._values(name)
        for key, value in sections.items():
            mine = values.get(key)
            merges = isinstance(mine, dict) and isinstance(value, dict)
            values[key] = {**mine, **value} if merges else value
        write_yaml(self._file(name), values)

    def replace(self, name: str, section: str, value: Any) -> None:
        """Puts another section into an institution's file."""
        write_yaml(self._file(name), {**self._values(name), section: value})

    def remove(self, name: str, section: str, key: str) -> None:
        """Takes a key out of a section of an institution's file."""
        values = self._values(name)
        del values[section][key]
        write_yaml(self._file(name), values)

    def _file(self, name: str) -> Path:
        file = "config.yaml" if name in self.names else "server.yaml"
        return self.folder / name / file

    def _values(self, name: str) -> dict[str, Any]:
        values = read_yaml(self._file(name))
        assert isinstance(values, dict)
        return values

    def _make_coordinator(self, plan: dict[str, Any], hours: float) -> None:
        folder = self.folder / "coordinator"
        hosts = (LOOPBACK, "localhost")
        place = ServerSetup(
            roles=("coordinator",), hosts=hosts, passphrase_file=self._passphrase()
        )
        init_server(folder, place)
        self.configure(
            "coordinator",
            metrics={"port": self.ports["coordinator"]},
            coordinator={
                "listen": {"host": LOOPBACK, "port": self.ports["edge"]},
                "enrolment": {
                    "listen": {"host": LOOPBACK, "port": self.ports["enrol"]}
                },
                "certificate_hours": hours,
                "plan": {"mode": "independent", **_PLAN, **plan},
            },
        )

    def _make_teacher(
        self,
        teacher: Path,
        grants: dict[str, int],
        place: str = "teacher",
        name: str = TEACHER,
    ) -> None:
        folder = self.folder / place
        hosts = (LOOPBACK, "localhost")
        setup = ServerSetup(
            roles=("teacher",),
            name=name,
            enrolment=self.enrolment,
            passphrase_file=self._passphrase(),
        )
        init_server(folder, setup)
        shutil.copytree(teacher, folder / "teacher")
        imported = teacher / "backend.yaml"
        lines: Any = read_yaml(imported) if imported.exists() else {}
        self.configure(
            place,
            metrics={"port": self.ports[place]},
            authority={"revocations_poll_seconds": 1},
            teacher={
                "listen": {"host": LOOPBACK, "port": self.teach_port(place)},
                "threads": 1,
                "accelerator": "cpu",
                "budget": {"sites": grants},
                **lines,
            },
        )
        token = new_token(self.coordinator_config(), name, "teacher", hosts=hosts)
        list(join(self.teacher_config(place), str(token), None))

    def teach_port(self, place: str) -> int:
        """Returns the port of the service of a teacher, by the folder that it is in."""
        return self.ports["teach" if place == "teacher" else f"{place}-teach"]

    def _passphrase(self) -> Path:
        """Returns the file that encrypts the keys of all but the second site."""
        path = self.folder / "passphrase"
        write_private(path, b"four words of nonsense\n")
        return path

    def _make_site(self, site: str) -> None:
        folder = self.folder / site
        place = SiteSetup(
            site=site,
            coordinator=f"{LOOPBACK}:{self.ports['edge']}",
            teacher=TEACHER,
            teacher_address=f"{LOOPBACK}:{self.ports['teach']}",
            enrolment=self.enrolment,
            passphrase_file=self._passphrase() if site == SITES[0] else None,
            teacher_key=str(teacher_key(self.teacher_config())),
        )
        init_site(folder, place)
        part = site if site in SITES else SITES[-1]
        data = {"kind": "embedded", "part": part, "keep_labelled": 24}
        self.configure(site, metrics={"port": self.ports[site]}, **_SITE)
        self.replace(site, "data", data)
        identity = SiteIdentity.from_yaml(folder / "config.yaml")
        token = new_token(self.coordinator_config(), site)
        list(enrol_site(identity, str(token), None))
        approve_site(self.teacher_config(), site, str(signing_fingerprint(identity)))
        if (terms := self.terms_of()) is not None:
            self.configure(site, teacher={"accepted_terms": terms})

    def terms_of(self, place: str = "teacher") -> str | None:
        """Returns the digest of the terms of a teacher; None: it states none."""
        card = TeacherCard.load(self.folder / place / "teacher" / "card.json")
        return card.licence and terms_digest(card.name, card.licence)

    def teacher_config(self, place: str = "teacher") -> ServerConfig:
        """Returns the config of a teacher, by the folder that it is in."""
        return ServerConfig.from_yaml(self.folder / place / "server.yaml")


def as_json(text: str) -> Any:
    """Returns the object on the last line that a program printed."""
    return json.loads(text.strip().splitlines()[-1])
