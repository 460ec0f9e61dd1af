"""Who belongs to the federation: one node key a site, one site a node key."""

from pathlib import Path

import pytest

from moma_core.errors import CertificateError
from moma_core.federation.node_key import create_node_key
from moma_server.membership.node_registry import read_sites, register_site, remove_site


def test_an_admitted_site_is_listed(tmp_path: Path) -> None:
    key = create_node_key().public

    register_site(tmp_path / "sites", "site-a", key)
    register_site(tmp_path / "sites", "site-a", key.strip() + b" a comment\n")

    assert list(read_sites(tmp_path / "sites")) == ["site-a"]


def test_a_second_key_for_a_site_is_refused(tmp_path: Path) -> None:
    register_site(tmp_path, "site-a", create_node_key().public)

    with pytest.raises(CertificateError, match="another node key"):
        register_site(tmp_path, "site-a", create_node_key().public)


def test_a_key_that_another_site_has_is_refused(tmp_path: Path) -> None:
    key = create_node_key().public
    register_site(tmp_path, "site-a", key)

    with pytest.raises(CertificateError, match="site-a has this node key"):
        register_site(tmp_path, "site-b", key)


@pytest.mark.parametrize("name", ["", "../site", "Site A", "a"])
def test_what_is_no_name_of_a_site_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CertificateError, match="no name"):
        register_site(tmp_path, name, create_node_key().public)


def test_a_key_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CertificateError):
        register_site(tmp_path, "site-a", b"ssh-rsa AAAA")


def test_a_removed_site_is_gone(tmp_path: Path) -> None:
    register_site(tmp_path, "site-a", create_node_key().public)

    remove_site(tmp_path, "site-a")

    assert read_sites(tmp_path) == {}
    with pytest.raises(CertificateError, match="site-a"):
        remove_site(tmp_path, "site-a")


def test_a_key_that_was_taken_back_is_not_admitted_again(tmp_path: Path) -> None:
    old, new = create_node_key(), create_node_key()
    register_site(tmp_path, "site-a", old.public)
    remove_site(tmp_path, "site-a")

    with pytest.raises(CertificateError, match="was revoked"):
        register_site(tmp_path, "site-a", old.public)
    register_site(tmp_path, "site-a", new.public)

    assert list(read_sites(tmp_path)) == ["site-a"]
