"""The output policy: what is withheld has no columns, the rest is as exact as said."""

import numpy as np
import pytest

from moma_core.errors import ConfigError
from moma_core.policy.outputs import BELOW_TOP, OutputPolicy, Precision

EMBEDDING = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32) * 1e5
LOGITS = np.array([[1, 3, 2, 0], [0, 0, 0, 0]], np.float32).repeat(2, 0)


def test_by_default_all_is_told_as_it_is() -> None:
    embedding, logits = OutputPolicy().apply(EMBEDDING, LOGITS)
    assert (embedding == EMBEDDING).all()
    assert (logits == LOGITS).all()


def test_what_is_withheld_has_no_columns() -> None:
    embedding, logits = OutputPolicy(embedding=False).apply(EMBEDDING, LOGITS)
    assert embedding.shape == (4, 0)
    assert logits.shape == LOGITS.shape
    embedding, logits = OutputPolicy(logits=False).apply(EMBEDDING, LOGITS)
    assert embedding.shape == EMBEDDING.shape
    assert logits.shape == (4, 0)


def test_only_the_largest_logits_are_told() -> None:
    _, logits = OutputPolicy(top_k=2).apply(EMBEDDING, LOGITS)
    low = -1 - BELOW_TOP
    assert logits[0].tolist() == [low, 0, -1, low]
    assert logits[2].tolist() == [0, 0, -BELOW_TOP, -BELOW_TOP]
    _, all_of_them = OutputPolicy(top_k=9).apply(EMBEDDING, LOGITS)
    assert (all_of_them == LOGITS).all()


def test_top_1_tells_the_class_and_not_how_sure() -> None:
    sure, unsure = np.array([[9, 0]], np.float32), np.array([[1, 0]], np.float32)
    apply = [OutputPolicy(top_k=1).apply(EMBEDDING[:1], x)[1] for x in (sure, unsure)]
    assert [values.tolist() for values in apply] == [[[0, -BELOW_TOP]]] * 2


@pytest.mark.parametrize(("precision", "bits"), [("float16", 10), ("bfloat16", 7)])
def test_numbers_are_rounded_and_none_overflows(
    precision: Precision, bits: int
) -> None:
    embedding, _ = OutputPolicy(precision=precision).apply(EMBEDDING, LOGITS)
    error = np.abs(embedding - EMBEDDING) / np.abs(EMBEDDING)
    assert 0 < error.max() <= 2.0 ** -(bits + 1)
    assert np.isfinite(embedding).all()


@pytest.mark.parametrize(
    "values",
    [
        {"embedding": False, "logits": False},
        {"top_k": 0},
        {"top_k": 1, "logits": False},
    ],
)
def test_a_policy_that_means_nothing_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        OutputPolicy(**values)


def test_the_log_names_what_is_told() -> None:
    assert OutputPolicy().names == ("embedding", "logits")
    assert OutputPolicy(embedding=False, top_k=1).names == ("top-1-logits",)
