"""A site with two served teachers: one knows its classes, and one is noise."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moma_client.egress.outcome import StudentOutcome
from moma_client.site.teachers import RunTeachers
from moma_client.student.factory import SiteTeacher, StudentJob
from moma_client.student.launch import run_student
from moma_client.student.round import SiteCallback
from moma_client.teacher.usage import recorded
from moma_core.config import validated
from moma_core.data.augment.stain import DAB, stain_amounts
from moma_core.data.sources.demo_tissue import (
    CLASS_BOUNDS,
    CLASS_NAMES,
    POSITIVE_DAB,
)
from moma_core.data.sources.factory import open_source
from moma_core.distillation.methods.names import Method
from moma_core.federation.task import RoundTask
from moma_core.teacher.query import Pixels
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import CARD, VIEWS, CachedSite, teaching
from tests.support.teacher.sealed import key_of
from tests.support.teacher.teacher_server import MeanColour, Served

GOOD, NOISE = "teacher-a", "teacher-b"
OTHER_CLASSES = ("stroma", "mucosa", "muscle")
_FEW = 1e-3

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]


class Expert(MeanColour):
    """Says the very classes of the embedded set, in an order of its own."""

    def __init__(self) -> None:
        super().__init__(replace(CARD, class_names=tuple(reversed(CLASS_NAMES))))

    def predict(self, pixels: Pixels) -> Outputs:
        super().predict(pixels)
        positive = stain_amounts(pixels)[..., DAB] > POSITIVE_DAB
        share = positive.mean(axis=(1, 2)).astype(np.float32)  # (N,)
        label = np.digitize(share, CLASS_BOUNDS)
        known = np.eye(len(CLASS_NAMES), dtype=np.float32)[label]
        embedding = np.repeat(known, 3, axis=1) + share[:, None] * np.float32(_FEW)
        return embedding, 8 * known[:, ::-1]


class Noise(MeanColour):
    """Says something of each patch that has nothing to do with it, of other classes."""

    def __init__(self) -> None:
        card = replace(
            CARD,
            name=NOISE,
            digest="b" * 64,
            embedding_length=6,
            class_names=OTHER_CLASSES,
        )
        super().__init__(card)

    def predict(self, pixels: Pixels) -> Outputs:
        super().predict(pixels)
        drawn = [
            np.random.default_rng(np.frombuffer(each.tobytes(), np.uint8).sum())
            for each in pixels
        ]
        values = np.stack([each.normal(size=9) for each in drawn]).astype(np.float32)
        return values[:, :6], values[:, 6:]


class SeveralSite(CachedSite):
    """A hospital with both; its config has `teachers`.

    Args:
        folder: Its own.
        pki: The federation.
        ports: Of its teachers, by name.
        teacher: Further keys of both teachers' sections, by name or of both.
        sections: Further sections of the config.
    """

    def __init__(
        self,
        folder: Path,
        pki: Pki,
        ports: Mapping[str, int],
        *,
        teacher: Any = None,
        **sections: Any,
    ) -> None:
        super().__init__(folder, pki, ports[GOOD], **sections)
        first = self.values.pop("teacher")
        further = teacher or {}
        self.values["teachers"] = [
            {
                **first,
                "name": name,
                "address": f"localhost:{port}",
                "key": str(key_of(name).public),
                "views": VIEWS,
                **further.get(name, further.get("", {})),
            }
            for name, port in ports.items()
        ]
        self.config = validated(type(self.config), self.values, self.path)

    def onboard(self) -> RunTeachers:
        return RunTeachers.onboard(self.context, open_source(self.config.data))

    def prepared(
        self, teachers: RunTeachers, task: RoundTask
    ) -> tuple[SiteTeacher, ...]:
        with recorded(self.context, self.folder(task)):
            return teachers.prepare(task, self.folder(task), None)

    def train_with(
        self, teachers: tuple[SiteTeacher, ...], task: RoundTask, method: Method
    ) -> StudentOutcome:
        folder = self.folder(task) / method
        job = StudentJob(self.config, method, teachers, folder, b"key", task)
        with recorded(self.context, self.folder(task)):
            return run_student(job, SiteCallback(self.context, None, method))


@contextmanager
def two_teachers(
    folder: Path, pki: Pki, *, grants: Mapping[str, int] | None = None
) -> Iterator[dict[str, Served]]:
    """Runs both real servers, each with a folder, a key and a budget of its own."""
    granted = {GOOD: 10_000, NOISE: 10_000} | dict(grants or {})
    with (
        teaching(folder / GOOD, pki, grant=granted[GOOD], backend=Expert()) as good,
        teaching(folder / NOISE, pki, grant=granted[NOISE], backend=Noise()) as noise,
    ):
        yield {GOOD: good, NOISE: noise}


def ports_of(served: Mapping[str, Served]) -> dict[str, int]:
    return {name: each.port for name, each in served.items()}
