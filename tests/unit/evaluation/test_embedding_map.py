"""What embeddings show beside the classes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from moma_core.evaluation.embedding_map import (
    neighbour_share,
    origin_leak,
    principal_components,
)
from moma_core.evaluation.grouping import Grouping

PATIENTS, EACH, LENGTH = 20, 12, 8
GROUPS = np.repeat(np.arange(PATIENTS), EACH)
PATIENTS_OF = Grouping(GROUPS, "patients")
ORIGINS = GROUPS % 2
LABELS = np.tile(np.arange(EACH) % 2, PATIENTS)


def noise(seed: int = 0) -> NDArray[np.float32]:
    shape = (len(GROUPS), LENGTH)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def direction(codes: NDArray[np.int64], size: float) -> NDArray[np.float32]:
    """Returns a direction of its own for each code."""
    random = np.random.default_rng(1)
    own = random.normal(size=(int(codes.max()) + 1, LENGTH))
    return (size * own[codes]).astype(np.float32)


def test_points_on_a_line_need_one_direction() -> None:
    """Of unit length there are two places: one at either end."""
    line = np.outer([-3.0, -1.0, 1.0, 3.0], [3.0, 4.0]).astype(np.float32)

    places, shares = principal_components(line)

    assert shares == pytest.approx([1.0, 0.0])
    assert np.abs(places[:, 0]) == pytest.approx(np.ones(4))
    assert places[0, 0] == pytest.approx(places[1, 0])


def test_an_origin_that_embeddings_carry_is_told() -> None:
    found = origin_leak(noise() + direction(ORIGINS, 4.0), LABELS, ORIGINS, PATIENTS_OF)

    assert found.value is not None
    assert found.value > 0.95
    assert found.chance == 0.5
    assert found.interval is not None
    assert found.interval[0] > 0.8
    assert (found.patches, found.groups) == (len(GROUPS), PATIENTS)


def test_knowing_a_patient_again_tells_no_origin() -> None:
    """Neighbours are patches of the same patient, but those are held out."""
    embeddings = noise() + direction(GROUPS, 6.0)

    found = origin_leak(embeddings, LABELS, ORIGINS, PATIENTS_OF)
    slides = neighbour_share(embeddings, LABELS, GROUPS)

    assert found.value is not None
    assert found.interval is not None
    assert found.interval[0] <= 0.5
    assert slides.value is not None
    assert slides.value > 0.9


def test_classes_alone_tell_no_origin() -> None:
    """One origin has mostly the one class, the other the other."""
    labels = np.where(np.arange(len(GROUPS)) % EACH < 9, ORIGINS, 1 - ORIGINS)

    found = origin_leak(noise() + direction(labels, 6.0), labels, ORIGINS, PATIENTS_OF)

    assert found.value == pytest.approx(0.5, abs=0.12)


def test_of_noise_neighbours_are_of_a_slide_by_chance() -> None:
    found = neighbour_share(noise(), LABELS, GROUPS)

    assert found.value == pytest.approx(found.chance, abs=0.03)
    assert found.chance == pytest.approx((EACH / 2 - 1) / (PATIENTS * EACH / 2 - 1))


@pytest.mark.parametrize(
    ("origins", "groups", "reason"),
    [
        (np.zeros_like(ORIGINS), PATIENTS_OF, "of one origin"),
        (ORIGINS, Grouping(GROUPS % 4, "patients"), "an origin has 2 patients"),
        (ORIGINS, Grouping(GROUPS % 2, "slides"), "an origin has 1 slide, at least"),
    ],
)
def test_where_nothing_can_be_told_there_is_a_reason(
    origins: NDArray[np.int64], groups: Grouping, reason: str
) -> None:
    found = origin_leak(noise(), LABELS, origins, groups)

    assert found.value is None
    assert reason in found.reason


def test_origins_without_a_class_in_common_cannot_be_compared() -> None:
    found = origin_leak(noise(), ORIGINS, ORIGINS, PATIENTS_OF)

    assert found.value is None
    assert "no class" in found.reason


def test_one_slide_alone_has_no_neighbours_of_others() -> None:
    assert neighbour_share(noise(), LABELS, np.zeros_like(GROUPS)).value is None
