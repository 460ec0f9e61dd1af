from pathlib import Path

import numpy as np
import pytest

from benchmarks.service.askers import LocalAsker
from benchmarks.service.backends import NOTHING, backend_of
from benchmarks.service.driving import Load, Patches, drive
from benchmarks.service.results import Results
from benchmarks.service.summary import summary
from benchmarks.service.tables import as_markdown


def _row(service: str, repetition: int, seconds: float, **more: object) -> dict:
    return {
        "part": "compared",
        "key": f"{service}/{repetition}",
        "repetition": repetition,
        "service": service,
        "model": NOTHING,
        "side_px": 224,
        "batch": 64,
        "in_flight": 4,
        "batches": 10,
        "seconds": seconds,
        "p50_ms": 1.0,
        "p95_ms": 2.0,
        "site_cpu": 1.0,
        "service_cpu": 1.1,
        "books_cpu": 0.0,
        "done": "yes",
        **more,
    }


def test_a_service_is_held_against_the_bare_one_of_the_same_repetition(
    tmp_path: Path,
) -> None:
    results = Results(tmp_path / "service.csv")
    for repetition, slowness in enumerate((1.0, 10.0, 100.0)):  # of the machine
        results.add(_row("bare", repetition, slowness))
        results.add(_row("whole", repetition, 2 * slowness, service_cpu=3.3))

    bare, whole = summary(results.lines())["compared"]

    assert bare["of_bare"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert whole["of_bare"] == {"median": 0.5, "low": 0.5, "high": 0.5}
    assert whole["patches_per_second"]["median"] == pytest.approx(32)
    assert whole["service_cpu_ms"]["median"] == pytest.approx(300)
    assert whole["cpu_of_bare"]["median"] == pytest.approx(0.5)


def test_a_measurement_that_was_repeated_counts_once(tmp_path: Path) -> None:
    results = Results(tmp_path / "service.csv")
    for seconds in (1.0, 4.0):
        results.add(_row("bare", 0, seconds))

    (bare,) = summary(results.lines())["compared"]

    assert bare["repetitions"] == 1
    assert bare["patches_per_second"]["median"] == pytest.approx(160)


def test_the_tables_have_a_line_for_each_measurement(tmp_path: Path) -> None:
    results = Results(tmp_path / "service.csv")
    results.add(_row("bare", 0, 1.0))
    results.add(
        {
            "part": "grouped",
            "key": "grouped/4/0",
            "streams": 4,
            "batch": 1,
            "batches": 30,
            "seconds": 3.0,
            "entries": 30,
            "commits": 20,
            "done": "yes",
        }
    )

    text = as_markdown(summary(results.lines()))

    assert "| nothing | 224 | 64 | 4 | bare | 640 (640 to 640) |" in text
    assert "| 4 | 10 (10 to 10) | 3.0 (3.0 to 3.0) |" in text


def test_no_patch_is_asked_twice() -> None:
    load = Load(side_px=4, batch=3, in_flight=2)
    batches = iter(Patches(load))

    seen = {patch.tobytes() for _ in range(20) for patch in next(batches)}

    assert len(seen) == 60


def test_all_that_was_asked_is_answered_and_timed() -> None:
    load = Load(side_px=32, batch=2, in_flight=3)
    asker = LocalAsker(backend_of(NOTHING, 32))

    driven = drive(asker, Patches(load), load, seconds=0, fewest=5)

    assert driven.batches == len(driven.latencies) == 5


def test_the_teacher_that_does_nothing_tells_patches_apart() -> None:
    backend = backend_of(NOTHING, 32)
    pixels = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (1, 2)])

    embedding, logits = backend.predict(pixels)

    assert embedding.shape == (2, backend.card.embedding_length)
    assert logits.shape == (2, len(backend.card.class_names))
    assert not np.array_equal(embedding[0], embedding[1])
