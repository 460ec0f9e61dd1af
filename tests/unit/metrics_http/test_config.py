from pathlib import Path

import pytest
from pydantic import ValidationError

from moma_core.metrics_http.config import PageSection

_GUARD = {
    "certificate": Path("metrics.pem"),
    "key": Path("metrics.key"),
    "token_file": Path("metrics.token"),
}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_loopback_needs_no_guard(host: str) -> None:
    assert PageSection(host=host, port=9464).loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "metrics.example"])
@pytest.mark.parametrize("missing", sorted(_GUARD))
def test_another_address_is_refused_without_tls_and_token(
    host: str, missing: str
) -> None:
    with pytest.raises(ValidationError, match=missing):
        PageSection(host=host, port=9464, **{**_GUARD, missing: None})


def test_another_address_is_taken_with_tls_and_token() -> None:
    section = PageSection(host="0.0.0.0", port=9464, **_GUARD)

    assert not section.loopback
    assert section.url == "https://0.0.0.0:9464"


def test_the_refusal_says_what_to_give() -> None:
    with pytest.raises(ValidationError) as caught:
        PageSection(host="10.0.0.1", port=9464, certificate="a", key="b")

    assert "'10.0.0.1' can be reached from other machines" in str(caught.value)
    assert "give token_file, or use 127.0.0.1" in str(caught.value)


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="certificate is given without key"):
        PageSection(port=9464, certificate="metrics.pem")


def test_no_host_is_no_address() -> None:
    with pytest.raises(ValidationError, match="host"):
        PageSection(host="", port=9464)
