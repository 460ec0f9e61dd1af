"""A site that keeps its remote teacher's answers, and the server that gives them."""

import csv
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from prometheus_client import CollectorRegistry

from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.egress.outcome import StudentOutcome
from moma_client.metrics import ClientMetrics
from moma_client.site.prefetch import CachePrefetch
from moma_client.student.factory import SiteTeacher, StudentJob
from moma_client.student.launch import run_student
from moma_client.student.round import SiteCallback
from moma_core.config import validated
from moma_core.data.patch import SPLITS, TRAIN
from moma_core.data.sources.demo_tissue import CLASS_NAMES, EmbeddedSource
from moma_core.distillation.methods.names import Method
from moma_core.distillation.scenario import SiteTask, choose_scenario
from moma_core.federation.task import RoundTask
from moma_core.policy.budget import BudgetStore
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.query import Pixels
from tests.support.federation.pki import Pki
from tests.support.site.remote_teacher import running
from tests.support.site.tiny_site import local_config
from tests.support.teacher.charges import reserve_in
from tests.support.teacher.sealed import TEACHER_KEY
from tests.support.teacher.teacher_server import CARD as COLOUR_CARD
from tests.support.teacher.teacher_server import MeanColour, Served

LABELLED, UNLABELLED, VIEWS = 24, 84, 4
PATCHES = LABELLED + UNLABELLED
ROUND = RoundTask(
    kind="train", run="run", round=1, rounds=2, local_epochs=1, mode="independent"
)
WHOLE = replace(ROUND, local_epochs=VIEWS)  # shows every view
CARD = replace(
    COLOUR_CARD,
    embedding_length=12,
    class_names=CLASS_NAMES,
    input_size_px=32,
    task="stain",
)


class Quarters(MeanColour):
    """Says the mean colours of a patch's quarters."""

    def __init__(self, card: TeacherCard = CARD) -> None:
        super().__init__(card)

    def predict(
        self, pixels: Pixels
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        super().predict(pixels)
        count, side = len(pixels), pixels.shape[1] // 2
        quarters = pixels.reshape(count, 2, side, 2, side, 3)
        embedding = quarters.mean(axis=(2, 4), dtype=np.float32).reshape(count, 12)
        return embedding / 255, embedding[:, : len(CLASS_NAMES)] / 100


class Spender(Quarters):
    """Has another run of the site spend its budget while it works for this one."""

    PATCHES = 100
    ledger: BudgetStore | None = None

    def predict(
        self, pixels: Pixels
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self.ledger is not None:
            name, digest = b"another run's id", bytes(32)
            reserve_in(self.ledger, "site-a", name, digest=digest, patches=self.PATCHES)
            self.ledger = None
        return super().predict(pixels)


class CachedSite:
    """A hospital whose state lies in a folder.

    Args:
        folder: Its own.
        pki: The federation.
        port: Of its teacher.
        teacher: Further keys of the config's teacher section.
        sections: Further sections of the config.
    """

    def __init__(
        self, folder: Path, pki: Pki, port: int, *, teacher: Any = None, **sections: Any
    ) -> None:
        folder.mkdir(exist_ok=True)
        files = pki.write(folder / "identity", pki.site("site-a"))
        values = local_config(folder, **sections).model_dump(mode="json")
        values["teacher"] = {
            "mode": "frozen",
            "name": "teacher-a",
            "address": f"localhost:{port}",
            "key": TEACHER_KEY,
            "views": VIEWS,
            **(teacher or {}),
        }
        values["federation"] = pki.federation
        values["identity"] |= {
            "certificate": str(files.certificate),
            "key": str(files.key),
            "authority": str(files.ca),
            "signing_key": str(files.signing_key),
        }
        self.values, self.path = values, folder / "config.yaml"
        self.config = validated(SiteConfig, values, self.path)
        self.registry = CollectorRegistry()
        self.metrics = ClientMetrics(self.registry)
        self.stop = threading.Event()

    @property
    def context(self) -> RunContext:
        return RunContext(self.config, self.stop, self.metrics)

    def fill(
        self,
        task: RoundTask = ROUND,
        card: TeacherCard = CARD,
        verify: Callable[[], None] = lambda: None,
    ) -> None:
        filling = CachePrefetch(self.context, card, verify=verify)
        filling.prepare(task, self.folder(task))

    def fill_all(self) -> None:
        self.fill(WHOLE)

    def cache_content(self) -> bytes:
        (path,) = self.config.state_dir.glob("teacher-cache/*/*.cache")
        return path.read_bytes()

    def write_config(self) -> None:
        self.path.write_text(yaml.safe_dump(self.values))

    def folder(self, task: RoundTask) -> Path:
        return self.config.state_dir / "runs" / task.run

    def train(self, method: Method = "moma", task: RoundTask = ROUND) -> StudentOutcome:
        site = SiteTask(self.config.task.organ, self.config.task.task, CLASS_NAMES)
        scenario = choose_scenario(site, CARD, None)
        folder = self.folder(task) / method
        teacher = SiteTeacher(self.config, CARD, scenario)
        job = StudentJob(self.config, method, (teacher,), folder, b"key", task)
        watch = SiteCallback(self.context, None, method)
        return run_student(job, watch)

    def patches(self, source: str) -> float:
        name = "moma_client_patches_total"
        return self.registry.get_sample_value(name, {"source": source}) or 0


@contextmanager
def teaching(
    folder: Path, pki: Pki, *, grant: int = 10_000, **options: Any
) -> Iterator[Served]:
    """Runs the real server with a teacher for the embedded set."""
    backend = options.pop("backend", None) or Quarters()
    with running(folder, pki, backend, grants={"site-a": grant}, **options) as served:
        yield served


def write_pictures(folder: Path) -> tuple[Path, Path]:
    """Writes a labelled manifest of some patches, and returns it and one training one.

    Every third patch of the embedded set; all have a label.
    """
    source, last = EmbeddedSource("site-a"), folder
    folder.mkdir()
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for row in range(0, len(source.index), 3):
            path = folder / f"{row}.png"
            patch = source.read(row)
            Image.fromarray(patch.pixels).save(path)
            split = SPLITS[source.index.splits[row]]
            writer.writerow((path.name, CLASS_NAMES[source.index.labels[row]], split))
            last = path if split == TRAIN else last
    return folder / "manifest.csv", last
