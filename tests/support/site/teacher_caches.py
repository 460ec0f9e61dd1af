"""Small teacher caches for tests: views of noise, and a teacher that is arithmetic."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from moma_core.data.augment.recipe import ViewRecipe
from moma_core.data.batch import Batch
from moma_core.data.patch import NO_LABEL
from moma_core.teacher.cache.header import (
    CacheIdentity,
    CacheViews,
    Precision,
    cache_identity,
)
from moma_core.teacher.cache.store import TeacherCache
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.protocol import TeacherOutput

ROWS, VIEWS = 30, 3
KEY = bytes(range(32))
CARD = TeacherCard(
    name="teacher-a",
    digest="a" * 64,
    architecture="arithmetic",
    embedding_length=200,
    organ="colon",
    task="tissue types",
    class_names=("benign", "malignant"),
    input_size_px=8,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    precision="float32",
)


def identity(
    card: TeacherCard = CARD, *, seed: int = 5, precision: Precision = "float16"
) -> CacheIdentity:
    return cache_identity(
        card, CacheViews(ViewRecipe.tissue(), 8, seed, VIEWS, precision)
    )


def open_cache(folder: Path, key: bytes | None = None) -> TeacherCache:
    return TeacherCache(folder, identity(), ROWS, key)


def view_batch(rows: Iterable[int], number: int, *, salt: int = 0) -> Batch:
    """Returns one view of each of these rows; another salt is another picture."""
    chosen = list(rows)
    views = torch.stack(
        [
            torch.randint(
                0,
                256,
                (3, 8, 8),
                dtype=torch.uint8,
                generator=torch.Generator().manual_seed(1000 * row + number + salt),
            )
            for row in chosen
        ]
    )
    labels = torch.full((len(chosen),), NO_LABEL)
    numbers = torch.full((len(chosen),), number)
    return Batch(views, views, labels, number, torch.tensor(chosen), numbers)


def all_batches() -> Iterator[Batch]:
    """Yields every view of every row."""
    for number in range(VIEWS):
        for start in range(0, ROWS, 6):
            yield view_batch(range(start, start + 6), number)


def truth(batch: Batch) -> TeacherOutput:
    """Returns what the teacher says, exact in float16."""
    flat = batch.views.flatten(1).float()
    embedding = torch.cat([flat, flat[:, :8]], dim=1) / 4  # (N, 200)
    return TeacherOutput(embedding, flat[:, :2] - 128)


class ArithmeticTeacher:
    """Answers with the truth, and counts."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def answer_batches(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, TeacherOutput]]:
        for batch in batches:
            self.asked.append(len(batch.rows))
            yield batch, truth(batch)


def assert_all_true(cache: TeacherCache) -> None:
    """Asserts that the cache holds everything, and all of it right."""
    for batch in all_batches():
        found = cache.read(batch)
        assert not len(found.missing)
        assert_true(batch, found.output)


def assert_true(batch: Batch, answer: TeacherOutput) -> None:
    expected = truth(batch)
    assert torch.equal(answer.embedding, expected.embedding)
    assert torch.equal(answer.logits, expected.logits)
