"""The word that an operator hands to a new member: `moma-server token create`.

It says which federation this is, whose name is granted, and by which authority the
coordinator is known; and it holds a secret that is good once. All parts are names and
hexadecimal digits, so that it is one word to copy, in a shell and by a double click.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Final

from moma_core.errors import CertificateError
from moma_core.pki.names import PeerName

SECRET_BYTES: Final = 32

_HEAD = "moma1"
_ID_BYTES = 8
_LONGEST_TOKEN = 512
_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """One grant of a place in the federation.

    Args:
        peer: Who may enrol with it.
        identifier: 8 bytes, hexadecimal; by it operators speak of the token.
        secret: 32 bytes; good once.
        authority: SHA-256 of the federation's CA certificate in DER, hexadecimal.
    """

    peer: PeerName
    identifier: str
    secret: bytes
    authority: str

    def __str__(self) -> str:
        peer = self.peer
        parts = (_HEAD, peer.federation, peer.kind, peer.name)
        return "_".join((*parts, self.identifier, self.secret.hex(), self.authority))

    def __repr__(self) -> str:
        return f"EnrolmentToken({self.peer}, {self.identifier})"  # no secret in a log

    @classmethod
    def create(cls, peer: PeerName, authority: str) -> "EnrolmentToken":
        """Makes a new one for `peer`."""
        identifier = secrets.token_hex(_ID_BYTES)
        return cls(peer, identifier, secrets.token_bytes(SECRET_BYTES), authority)

    @classmethod
    def parse(cls, text: str) -> "EnrolmentToken":
        """Reads a token; what is wrong with it is said without showing it.

        Raises:
            CertificateError: It is none.
        """
        parts = text.strip().split("_")
        if len(text) > _LONGEST_TOKEN or len(parts) != 7 or parts[0] != _HEAD:
            raise CertificateError("this is no token; copy all of it, it is one word")
        _, federation, kind, name, identifier, secret, authority = parts
        sizes = ((identifier, _ID_BYTES), (secret, SECRET_BYTES), (authority, 32))
        for value, size in sizes:
            if len(value) != 2 * size or not _HEX.fullmatch(value):
                raise CertificateError("the token is damaged; copy all of it")
        peer = PeerName.parse(f"spiffe://{federation}/{kind}/{name}")
        return cls(peer, identifier, bytes.fromhex(secret), authority)

    @property
    def secret_hash(self) -> str:
        """What the server keeps of the secret.

        A plain hash is enough: the secret is random and long, nobody guesses it.
        """
        return secret_hash(self.secret)


def secret_hash(secret: bytes) -> str:
    """Returns SHA-256 of a token's secret, hexadecimal."""
    return hashlib.sha256(secret).hexdigest()
