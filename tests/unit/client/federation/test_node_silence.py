"""A coordinator from which nothing is heard: the site waits, and says so."""

import logging
from pathlib import Path

import pytest

from moma_client.federation.node import FederationNode, NodeSettings


def test_a_site_that_hears_nothing_says_so_now_and_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = NodeSettings(
        address="127.0.0.1:9",
        ca_certificate=tmp_path,
        node_key=tmp_path,
        folder=tmp_path,
    )
    node = FederationNode(settings)
    with caplog.at_level(logging.WARNING):
        node._listen()
        assert not caplog.messages
        node._heard_at -= 600

        node._listen()
        node._listen()

    assert caplog.messages == [
        "nothing was heard of the coordinator at 127.0.0.1:9 for 10 min; this site "
        "waits for 72 h in all"
    ]
