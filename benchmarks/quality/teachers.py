"""The teachers of the trials: trained once a seed, kept, and asked through a memory."""

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.quality.tissue import (
    MERGED,
    WEAK_TEACHER_PATCHES,
    Relabelled,
    Scenario,
    colon,
    colon_parts,
)
from benchmarks.quality.training import VIEW_SIZE_PX, Course, Rows, Share, train
from moma_core.data.batch import Batch
from moma_core.data.patch import PatchSource
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import Distiller
from moma_core.models.backbone import (
    Backbone,
    Normalise,
    create_backbone,
    lite0_state_dict,
)
from moma_core.models.settings import ModelSection
from moma_core.models.weights import load_weights, save_weights
from moma_core.teacher.local import AbsentTeacher
from moma_core.teacher.protocol import TeacherOutput

ARCHITECTURE = "tf_efficientnet_lite0"
IMAGENET_CLASSES = 1000
_STEPS, _RATE = 400, 0.02
View = tuple[int, int]  # row, number
_KIND = {"same": "nine", "stain": "nine", "relevant": "merged", "weak": "weak"}


@lru_cache(maxsize=8)
def teacher_for(scenario: Scenario, seed: int, data: Path, work: Path) -> Backbone:
    """Returns a frozen teacher, trained when it is first asked for.

    Args:
        scenario: Decides what it knows.
        seed: Decides what it was trained on.
        data: The colon set.
        work: Where teachers are kept.
    """
    if scenario == "irrelevant":
        teacher = Backbone(ARCHITECTURE, IMAGENET_CLASSES)
        weights = lite0_state_dict(teacher.model.state_dict())
        teacher.model.load_state_dict(weights)
        return teacher.eval().requires_grad_(False)
    source = colon(data)
    rows, _ = colon_parts(source, seed)
    if scenario == "weak":
        rows = rows[np.random.default_rng(seed).permutation(len(rows))]
        rows = rows[:WEAK_TEACHER_PATCHES]
    if scenario == "relevant":
        source = Relabelled(source, MERGED)
    torch.manual_seed(seed)
    section = ModelSection(architecture=ARCHITECTURE, weights="packaged")
    teacher = create_backbone(section, len(source.class_names))
    path = work / f"{_KIND[scenario]}-{seed}-{VIEW_SIZE_PX}px.safetensors"
    if path.exists():
        load_weights(teacher, path)
    else:
        _teach(teacher, source, rows, seed)
        partial = path.with_suffix(f".{os.getpid()}")
        save_weights(teacher, partial)
        partial.replace(path)
    return teacher.eval().requires_grad_(False)


def _teach(teacher: Backbone, source: PatchSource, rows: Rows, seed: int) -> None:
    course = Course(steps=_STEPS, rate=_RATE, seed=seed, recipe="tissue", views=0)
    step = Distiller(teacher, DistillationSettings())
    train(step, AbsentTeacher(), source, Share(rows, rows[:0]), course)


class Memory:
    """What a frozen teacher said of each view; every trial of a process shares it.

    Args:
        encoder: The teacher.
        maps: Whether its feature maps are kept, too.
        device: Where it answers; what it says is kept in main memory.

    Attributes:
        encoder: The teacher.
    """

    def __init__(self, encoder: Backbone, *, maps: bool, device: str = "cpu") -> None:
        self.encoder, self._device = encoder.to(device), torch.device(device)
        self._look = encoder.with_maps if maps else encoder
        self._normalise = Normalise(encoder.mean, encoder.std).to(device)
        self._answers: dict[View, TeacherOutput] = {}

    @torch.no_grad()
    def answers(self, views: torch.Tensor, keys: list[View]) -> list[TeacherOutput]:
        """Returns one answer a view, and asks about those that are new."""
        new = [place for place, key in enumerate(keys) if key not in self._answers]
        if new:
            found = self._look(self._normalise(views[new].to(self._device)))
            found = TeacherOutput(*found).to(torch.device("cpu"))
            for at, place in enumerate(new):
                self._answers[keys[place]] = TeacherOutput(
                    found.embedding[at].clone(),
                    found.logits[at].clone(),
                    tuple(stage[at].clone() for stage in found.maps),
                )
        return [self._answers[key] for key in keys]


@lru_cache(maxsize=2)
def memory_for(
    scenario: Scenario, seed: int, data: Path, work: Path, *, maps: bool
) -> Memory:
    """Returns the memory of a teacher; arguments as in `teacher_for`."""
    return Memory(teacher_for(scenario, seed, data, work), maps=maps)


class CountedTeacher:
    """Answers one trial from a memory, and counts the views that the trial needed.

    Args:
        memory: Of a frozen teacher.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._seen: set[View] = set()

    @property
    def answers(self) -> int:
        """How many views a site with a teacher cache would have asked about."""
        return len(self._seen)

    def answer_batches(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, TeacherOutput]]:
        """Answers each batch."""
        for batch in batches:
            rows, numbers = batch.rows.tolist(), batch.view_numbers.tolist()
            keys = list(zip(rows, numbers, strict=True))
            self._seen.update(keys)
            known = self._memory.answers(batch.views, keys)
            stages = zip(*(answer.maps for answer in known), strict=True)
            yield (
                batch,
                TeacherOutput(
                    torch.stack([answer.embedding for answer in known]),
                    torch.stack([answer.logits for answer in known]),
                    tuple(map(torch.stack, map(list, stages))),
                ),
            )
