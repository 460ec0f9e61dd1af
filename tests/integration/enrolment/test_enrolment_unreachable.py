"""What an operator reads where nobody enrols."""

import logging
import socket
from pathlib import Path

import pytest

from moma_client.cli.init import SiteSetup, init_site
from moma_core.errors import FederationError
from moma_core.pki.identity import EnrolmentToken, PeerName
from moma_core.pki.renewal import IdentityFiles
from moma_proto.enrolment.client import EnrolmentPort, take_place


def test_a_port_where_nobody_enrols_is_told_once_and_then_what_to_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    init_site(tmp_path, SiteSetup(site="site-a"))
    names = ("site.pem", "site.key", "ca.pem")
    files = IdentityFiles(*(tmp_path / name for name in names), None)
    own = PeerName("moma", "site", "site-a")
    token = EnrolmentToken.create(own, "0" * 64)
    monkeypatch.setattr("moma_proto.enrolment.client._PAUSE_SECONDS", 0.02)
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unheard.getsockname()[1]}"
        port = EnrolmentPort(address, wait_seconds=0.5)

        with (
            caplog.at_level(logging.INFO),
            pytest.raises(FederationError, match="by default 8445") as error,
        ):
            take_place(port, token, own, files)

    assert str(error.value).startswith(f"cannot reach {address}")
    assert caplog.text.count("trying again") == 1
