"""Certificates, requests and lists that no library made: a sentence, nothing else."""

import base64
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moma_core.errors import CertificateError, MomaError, NotAuthorizedError
from moma_core.pki.certificates import (
    Credential,
    authority_fingerprint,
    certificate_builder,
    check_issued,
    check_own_certificate,
    check_pair,
    common_name,
    create_authority,
    create_key,
    create_request,
    life,
    load_key,
    sign_request,
)
from moma_core.pki.identity import PeerName, authorize, read_peer
from moma_core.pki.revocations import Revocation, read_list, sign_list
from moma_server.membership.renewal import certificate_hosts


def der_of(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
OWN = PeerName("moma", "site", "site-a")
KEY = create_key()
AUTHORITY = create_authority("moma", now=NOW)
GOOD = sign_request(
    create_request(KEY, str(OWN)), AUTHORITY, expected_uri=str(OWN), now=NOW
)
REQUEST = der_of(create_request(KEY, str(OWN)))
LIST = sign_list((Revocation(5, "site-a", NOW),), AUTHORITY, now=NOW)
_VERSION = bytes.fromhex("a003020102")  # [0] INTEGER 2, which stands for version 3


def pem_of(der: bytes, name: str = "CERTIFICATE") -> bytes:
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN {name}-----\n{text}-----END {name}-----\n".encode()


def odd_version(key: bytes = KEY, version: int = 7) -> bytes:
    """Returns a certificate of our CA's form whose version nobody has heard of."""
    good = sign_request(
        create_request(key, str(OWN)), AUTHORITY, expected_uri=str(OWN), now=NOW
    )
    return pem_of(der_of(good).replace(_VERSION, _VERSION[:-1] + bytes([version]), 1))


def _signed(*extensions: tuple[x509.ExtensionType, bool]) -> bytes:
    issuer = x509.load_pem_x509_certificate(AUTHORITY.certificate_pem)
    builder = certificate_builder(
        common_name("site-a"),
        issuer.subject,
        load_key(KEY).public_key(),
        now=NOW,
        lifetime=timedelta(days=1),
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    signed = builder.sign(load_key(AUTHORITY.key_pem), hashes.SHA256())
    return signed.public_bytes(Encoding.PEM)


def _named(*names: x509.GeneralName) -> bytes:
    return _signed((x509.SubjectAlternativeName(names), False))


def _negative_serial() -> bytes:
    der = bytearray(der_of(GOOD))
    at = der.index(_VERSION) + len(_VERSION) + 2
    der[at] |= 0x80
    return pem_of(bytes(der))


def _odd_date() -> bytes:
    der = der_of(GOOD)
    at = der.index(b"\x17\x0d") + 2  # a UTCTime of 13 characters
    return pem_of(der[:at] + b"269999999999Z" + der[at + 13 :])


_MANY = range(10_000)

ODD: dict[str, Callable[[], bytes]] = {
    "version 8": odd_version,
    "version 1": lambda: odd_version(version=0),
    "a negative serial": _negative_serial,
    "a date that is none": _odd_date,
    "nothing": lambda: b"",
    "no name": lambda: _signed(),
    "10,000 names": lambda: _named(
        *(
            x509.UniformResourceIdentifier(f"spiffe://moma/site/s{n}")
            for n in range(10_000)
        )
    ),
    "a name of 100,000 characters": lambda: _named(
        x509.UniformResourceIdentifier("spiffe://moma/site/" + "a" * 100_000)
    ),
    "another kind of name": lambda: _named(
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))
    ),
    "a critical extension that nobody knows": lambda: _signed(
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\xff"), True)
    ),
    "names that are no names": lambda: _signed(
        (
            x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\xff\xff"),
            False,
        )
    ),
    "no certificate": lambda: pem_of(b"\x30\x00"),
    "PEM of nothing": lambda: pem_of(b""),
    "bytes that are no text": lambda: bytes(range(256)),
    "a NUL in a name": lambda: _named(
        x509.UniformResourceIdentifier("spiffe://moma/site/site-a\0.evil")
    ),
}


def look_at(pem: bytes) -> list[Exception]:
    """Returns what every reader of a certificate says of it."""
    readers: list[Callable[[], object]] = [
        lambda: read_peer(pem),
        lambda: authorize(pem, now=NOW, revoked=(), federation="moma", kinds=("site",)),
        lambda: check_issued(pem, AUTHORITY.certificate_pem),
        lambda: check_issued(GOOD, pem),
        lambda: life(pem),
        lambda: check_pair(pem, KEY),
        lambda: authority_fingerprint(pem),
        lambda: certificate_hosts(pem),
        lambda: check_own_certificate(
            pem,
            authority_pem=AUTHORITY.certificate_pem,
            own=OWN,
            key_pem=KEY,
            now=NOW,
        ),
        lambda: sign_request(
            create_request(KEY, str(OWN)),
            Credential(pem, AUTHORITY.key_pem),
            expected_uri=str(OWN),
            now=NOW,
        ),
        lambda: sign_request(pem, AUTHORITY, expected_uri=str(OWN), now=NOW),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's, of a serial that is negative
        return _said(readers)


def _said(readers: Sequence[Callable[[], object]]) -> list[Exception]:
    said: list[Exception] = []
    for reader in readers:
        try:
            reader()
        except MomaError as error:
            said.append(error)
    return said


@pytest.mark.parametrize("name", ODD)
def test_an_odd_certificate_is_a_sentence_to_every_reader(name: str) -> None:
    said = look_at(ODD[name]())

    assert said
    assert all(isinstance(e, CertificateError | NotAuthorizedError) for e in said)
    assert all(len(str(error).splitlines()) == 1 for error in said)


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_no_changed_byte_of_a_certificate_is_anything_but_our_own_error(
    data: st.DataObject,
) -> None:
    der = bytearray(der_of(GOOD))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(der) - 1))
        der[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 40))

    said = look_at(pem_of(bytes(der[: len(der) - cut])))

    assert all(isinstance(error, MomaError) for error in said)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_no_changed_byte_of_a_request_or_a_list_is_anything_but_our_own_error(
    data: st.DataObject,
) -> None:
    request, crl = bytearray(REQUEST), bytearray(LIST)
    for content in (request, crl):
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] = data.draw(st.integers(0, 255))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _said(
            [
                lambda: sign_request(
                    pem_of(bytes(request), "CERTIFICATE REQUEST"),
                    AUTHORITY,
                    expected_uri=str(OWN),
                    now=NOW,
                ),
                lambda: read_list(bytes(crl), AUTHORITY.certificate_pem, now=NOW),
            ]
        )

    assert all(isinstance(error, MomaError) for error in found)


@settings(deadline=None)
@given(content=st.binary(max_size=200))
@example(b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
def test_bytes_that_are_no_certificate_are_a_sentence(content: bytes) -> None:
    assert len(look_at(content)) > 5
