"""What a site could not train with is found before its teacher charges a patch."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moma_client.site.session import SiteSession
from moma_core.errors import ConfigError
from moma_core.teacher.card.reference_patch import expect, synthetic_patch
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import CARD, CachedSite, Quarters, teaching
from tests.support.teacher.teacher_server import Served

PATCH = synthetic_patch(0, 32)[np.newaxis]
GOLDEN = expect(*(part[0] for part in Quarters().predict(PATCH)), precision="float32")


@pytest.fixture
def served(tmp_path: Path, pki: Pki) -> Iterator[Served]:
    backend = Quarters(replace(CARD, golden=GOLDEN))
    with teaching(tmp_path / "teacher", pki, backend=backend) as running:
        yield running


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"student": {"weights_file": "none.safetensors"}}, "cannot read weights"),
        ({"student": {"architecture": "resnet-of-nobody"}}, "'resnet-of-nobody'"),
        ({"student": {"weights": "packaged"}}, "tf_efficientnet_lite0"),
        (
            {"student": {"architecture": "vit_tiny_patch16_224"}},
            "takes no views of 32 px",
        ),
    ],
)
def test_a_student_that_cannot_be_made_costs_no_patch(
    tmp_path: Path, pki: Pki, served: Served, sections: dict[str, Any], said: str
) -> None:
    site = CachedSite(tmp_path / "site", pki, served.port, **sections)
    session = SiteSession(site.context)

    with pytest.raises(ConfigError, match=said):
        session.run()

    assert served.budget.charged("site-a") == 0


def test_a_view_size_above_the_patches_is_told_before_anything_is_asked(
    tmp_path: Path, pki: Pki, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    student = {"weights_file": "none.safetensors"}
    site = CachedSite(
        tmp_path / "site", pki, served.port, view_size_px=64, student=student
    )
    session = SiteSession(site.context)

    with caplog.at_level(logging.WARNING), pytest.raises(ConfigError):
        session.run()

    assert "the largest has 32 px a side, view_size_px: 64 stretches it" in caplog.text
    assert served.budget.charged("site-a") == 0
