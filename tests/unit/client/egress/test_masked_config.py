"""With whom a site masks, as its config says it: what would hide nothing is refused."""

from pathlib import Path
from typing import Any

import pytest

from moma_client.config.site import SiteConfig
from moma_core.errors import ConfigError
from tests.support.site.tiny_site import local_config


def _masked(folder: Path, **section: Any) -> SiteConfig:
    partners = {"site-b": "ed25519:" + "1b" * 32, "site-c": "ed25519:" + "1c" * 32}
    may = section.pop("weights_may_leave", False)
    values = {"partners": partners, **section}
    return local_config(
        folder, coordinator={"weights_may_leave": may, "masked_weights": values}
    )


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"weights_may_leave": True}, "lets them leave without masks as well"),
        ({"smallest_group": 2}, "is 2: write 3 or more"),
        ({"smallest_group": 4}, "more than this site and its 2 partners"),
        ({"partners": {}}, "write 2 or more"),
        ({"partners": {"site-b": "x", "site-c": "y"}}, "it should be of the form"),
        (
            {"partners": dict.fromkeys(("site-b", "site-c"), "ed25519:" + "1b" * 32)},
            "two have one key",
        ),
        (
            {"partners": {f"site-{x}": f"ed25519:{x * 64}" for x in "ab"}},
            "names site-a, which is this site",
        ),
    ],
)
def test_a_config_that_hides_nothing_is_refused(
    tmp_path: Path, section: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        _masked(tmp_path, **section)


def test_a_config_with_partners_is_taken(tmp_path: Path) -> None:
    section = _masked(tmp_path).coordinator.masked_weights

    assert section is not None
    assert (section.smallest_group, section.max_update_norm) == (3, 100.0)
