"""Coverage: a narrow task covers little, all that the teacher knows covers all."""

from pathlib import Path

import numpy as np
import pytest

from moma_core.errors import ConfigError
from moma_core.policy.coverage import CoverageMap, pack, unpack

DIGEST = "ab" * 32


@pytest.fixture
def reference() -> np.ndarray:
    centres = np.random.default_rng(0).normal(size=(9, 32))
    noise = np.random.default_rng(1).normal(size=(900, 32))
    return np.maximum(centres.repeat(100, 0) + 0.3 * noise, 0).astype(np.float32)


def test_the_teachers_own_patches_cover_all_and_one_class_covers_little(
    reference: np.ndarray,
) -> None:
    coverage = CoverageMap.of_reference(reference, DIGEST, seed=0)
    assert coverage.ratio(coverage.touched(reference)) == 1
    one_class = coverage.ratio(coverage.touched(reference[:100]))
    assert 0 < one_class < 0.3


def test_answers_outside_what_the_teacher_knows_count_for_nothing(
    reference: np.ndarray,
) -> None:
    coverage = CoverageMap.of_reference(reference, DIGEST, seed=0)
    strange = np.random.default_rng(2).normal(size=(5000, 32)).astype(np.float32) * 9
    assert coverage.ratio(coverage.touched(strange)) <= 1
    assert not (coverage.touched(strange) & ~coverage.occupied).any()


def test_a_map_survives_its_file_and_belongs_to_one_teacher(
    tmp_path: Path, reference: np.ndarray
) -> None:
    path = tmp_path / "coverage.safetensors"
    coverage = CoverageMap.of_reference(reference, DIGEST, seed=3)
    coverage.save(path)
    again = CoverageMap.load(path, DIGEST)
    assert (again.touched(reference[:50]) == coverage.touched(reference[:50])).all()
    with pytest.raises(ConfigError, match="is of teacher abababababab"):
        CoverageMap.load(path, "cd" * 32)


def test_what_is_no_map_is_refused(tmp_path: Path, reference: np.ndarray) -> None:
    path = tmp_path / "coverage.safetensors"
    with pytest.raises(ConfigError, match="cannot read"):
        CoverageMap.load(path, DIGEST)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(ConfigError, match="cannot read"):
        CoverageMap.load(path, DIGEST)
    with pytest.raises(ConfigError, match="50 reference patches, got 49"):
        CoverageMap.of_reference(reference[:49], DIGEST, seed=0)


def test_buckets_as_bits(reference: np.ndarray) -> None:
    touched = CoverageMap.of_reference(reference, DIGEST, seed=0).touched(reference[:9])
    assert (unpack(pack(touched)) == touched).all()
    assert not unpack(b"").any()
