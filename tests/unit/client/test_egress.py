import logging
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from moma_client.config import EgressSection
from moma_client.egress import Egress
from moma_client.metrics import ClientMetrics


def _egress(**policy: Any) -> tuple[Egress, CollectorRegistry]:
    registry = CollectorRegistry()
    return Egress(EgressSection(**policy), ClientMetrics(registry)), registry


def _blocked(registry: CollectorRegistry, rule: str) -> float:
    name = "moma_client_egress_blocked_total"
    return registry.get_sample_value(name, {"rule": rule}) or 0.0


def test_only_figures_on_the_allow_list_leave() -> None:
    egress, registry = _egress(metrics=("validation_accuracy",))

    told = egress.figures({"validation_accuracy": 0.5, "validation_auroc": 0.7})

    assert told == {"validation_accuracy": 0.5}
    assert _blocked(registry, "metric") == 1


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf, -math.inf])
def test_a_figure_out_of_its_range_stays(value: float) -> None:
    egress, registry = _egress(metrics=("validation_accuracy",))

    told = egress.figures({"validation_accuracy": value})

    assert told == {}
    assert _blocked(registry, "range") == 1


def test_a_kappa_may_be_negative() -> None:
    egress, _ = _egress(metrics=("validation_kappa",))

    assert egress.figures({"validation_kappa": -0.5}) == {"validation_kappa": -0.5}


def test_figures_are_rounded_to_the_policys_decimals() -> None:
    egress, _ = _egress(metrics=("unseen_accuracy",), decimals=2)

    assert egress.figures({"unseen_accuracy": 0.98765}) == {"unseen_accuracy": 0.99}


@given(st.integers(min_value=0, max_value=10**7))
def test_a_count_of_patches_tells_tens_only(count: int) -> None:
    egress, _ = _egress()

    told = egress.patches(count)

    assert told % 10 == 0
    assert told >= 10
    assert abs(told - max(count, 10)) <= 5


def test_what_is_blocked_is_named_in_the_sites_own_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    egress, _ = _egress(metrics=())

    with caplog.at_level(logging.DEBUG, "moma_client.egress"):
        egress.figures({"secret_figure": 0.1})

    assert "secret_figure" in caplog.text
    assert "0.1" not in caplog.text
