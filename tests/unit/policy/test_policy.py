"""The policy's bounds, in the transaction that charges."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Connection

from moma_core.errors import (
    ConfigError,
    CoverageError,
    PatchLimitError,
    PolicyError,
)
from moma_core.policy.coverage import CoverageMap
from moma_core.policy.outputs import OutputPolicy
from moma_core.policy.policy import PolicyEnforcer, TeacherPolicy
from moma_core.policy.usage import PatchRate, usage_tables
from moma_core.runtime.database import open_database

SPACE = np.random.default_rng(0).normal(size=(600, 16)).astype(np.float32)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Connection]:
    engine = open_database(f"sqlite:///{tmp_path / 'rules.db'}")
    usage_tables.create_all(engine)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def coverage() -> CoverageMap:
    return CoverageMap.of_reference(SPACE, "ab" * 32, seed=0)


def patches(count: int) -> list[bytes]:
    return [hashlib.sha256(bytes([number])).digest() for number in range(count)]


def test_a_site_is_held_to_rate_and_unique_patches(database: Connection) -> None:
    policy = TeacherPolicy(rate=PatchRate(6000, 50), unique_patches=4)
    rules = PolicyEnforcer(policy, None)
    rules.authorize(database, "site-a", patches(4), 0)
    rules.authorize(database, "site-a", patches(3), 1)
    with pytest.raises(PolicyError, match="51 patches at once"):
        rules.authorize(database, "site-a", patches(51), 2)
    with pytest.raises(PatchLimitError, match="never asked"):
        rules.authorize(database, "site-a", patches(5), 3)


def test_no_answer_takes_a_site_over_its_coverage(
    database: Connection, coverage: CoverageMap
) -> None:
    rules = PolicyEnforcer(TeacherPolicy(coverage_limit=0.5), coverage)
    told = [_is_told(rules, database, part) for part in np.split(SPACE, 30)]
    usage = rules.usage(database, "site-a")
    assert 0 < sum(told) < 30
    assert usage.coverage is not None
    assert 0.3 < usage.coverage <= 0.5
    # what it has seen already may be asked again
    rules.answered(database, "site-a", SPACE[:20], 1)
    assert rules.usage(database, "site-a") == usage
    assert rules.usage(database, "site-b").coverage == 0


def _is_told(
    rules: PolicyEnforcer, database: Connection, answer: NDArray[np.float32]
) -> bool:
    try:
        rules.answered(database, "site-a", answer, 0)
    except CoverageError:
        return False
    return True


def test_the_refusal_says_how_much_is_allowed(
    database: Connection, coverage: CoverageMap
) -> None:
    rules = PolicyEnforcer(TeacherPolicy(coverage_limit=0.5), coverage)
    with pytest.raises(CoverageError, match=r"to 1.000 of .* 0.5 is allowed"):
        rules.answered(database, "site-a", SPACE, 0)
    assert rules.usage(database, "site-a").coverage == 0


def test_without_a_limit_coverage_is_measured(
    database: Connection, coverage: CoverageMap
) -> None:
    rules = PolicyEnforcer(TeacherPolicy(), coverage)
    rules.answered(database, "site-a", SPACE, 0)
    assert rules.usage(database, "site-a").coverage == 1


def test_coverage_cannot_be_bounded_without_a_map() -> None:
    with pytest.raises(ConfigError, match=r"needs a policy\.coverage_map"):
        PolicyEnforcer(TeacherPolicy(coverage_limit=0.5), None)


def test_every_change_of_a_policy_shows_in_its_digest() -> None:
    policies = [
        TeacherPolicy(),
        TeacherPolicy(rate=PatchRate(60, 5)),
        TeacherPolicy(unique_patches=5),
        TeacherPolicy(coverage_limit=0.5),
        TeacherPolicy(momentum_sessions=True),
        TeacherPolicy(outputs=OutputPolicy(top_k=1)),
    ]
    assert len({policy.digest() for policy in policies}) == len(policies)
    assert TeacherPolicy().digest() == TeacherPolicy().digest()


@pytest.mark.parametrize(
    "values", [{"unique_patches": 0}, {"coverage_limit": 0.0}, {"coverage_limit": 1.1}]
)
def test_a_policy_out_of_range_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        TeacherPolicy(**values)
