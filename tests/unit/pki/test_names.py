import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_core.errors import CertificateError
from moma_core.pki.identity import PEER_KINDS, PeerName, check_host

names = st.from_regex(r"[a-z][a-z0-9-]{1,62}", fullmatch=True)


@given(names, st.sampled_from(PEER_KINDS), names)
def test_a_name_is_read_back_as_it_was_written(
    federation: str, kind: str, name: str
) -> None:
    peer = PeerName(federation, kind, name)

    assert PeerName.parse(str(peer)) == peer


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://study/site/site-a",
        "spiffe://study/site",
        "spiffe://study/site/site-a/",
        "spiffe://study/site/site-a/more",
        "spiffe://study/hospital/site-a",
        "spiffe://study/site/Site-A",
        "spiffe://study/site/a",
        "spiffe://study/site/site-a\n",
        "spiffe://study/site/../site-a",
        "spiffe://user@study/site/site-a",
        "spiffe://study:443/site/site-a",
        "spiffe:///site/site-a",
        "spiffe://study/site/" + "a" * 64,
    ],
)
def test_what_is_no_name_is_refused(uri: str) -> None:
    with pytest.raises(CertificateError, match="is no "):
        PeerName.parse(uri)


@pytest.mark.parametrize(
    "host",
    ["localhost", "Teacher.example.org", "10.0.0.7", "::1", "a_b-1", "x." * 126 + "x"],
)
def test_a_host_is_a_name_or_an_address(host: str) -> None:
    assert _is_host(host)


@pytest.mark.parametrize(
    "host",
    [
        *("", " ", "a b", "a..b", ".a", "a.", "-a", "a-", "*.example.org", "é.org"),
        *("teacher.org:8444", "https://teacher.org", "[::1]", "10.0.0", "10.0.0.999"),
        *("a\n", "a" * 64, "x." * 127 + "x"),
        *("fe80::1%eth0", "fe80::1%\x1b[2J", "::%\x00"),  # a zone may be anything
    ],
)
def test_what_is_neither_is_no_host(host: str) -> None:
    with pytest.raises(CertificateError, match="is no host name and no IP address"):
        check_host(host)


def _is_host(text: str) -> bool:
    try:
        check_host(text)
    except CertificateError:
        return False
    return True


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_host_that_stands_for_all_addresses_is_told_as_such(host: str) -> None:
    with pytest.raises(CertificateError, match="nobody can call it by that"):
        check_host(host)
