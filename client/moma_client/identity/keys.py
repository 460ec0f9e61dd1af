"""A site's three private keys.

One private key is for TLS, one for the node of the rounds, one signs every query. They
are made where they are used and never leave; keys that are there already are used.
"""

from pathlib import Path

from moma_client.config.site import SiteIdentity
from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.pki.key_files import (
    create_node_key,
    ensure_key,
    open_key,
    public_node_key,
    read_passphrase,
    sealed_key,
)
from moma_core.runtime.files import write_private


def make_keys(site: SiteIdentity) -> list[Path]:
    """Makes the keys that are missing, and returns their files.

    Raises:
        CertificateError: A key that is there cannot be opened, or the passphrase file
            cannot be read.
    """
    identity = site.identity
    files = (identity.key, identity.node_key, identity.signing_key)
    missing = [path for path in files if not path.exists()]
    passphrase = read_passphrase(identity.passphrase_file)
    ensure_key(identity.key, identity.passphrase_file)
    if identity.node_key in missing:
        private = create_node_key().private
        write_private(identity.node_key, sealed_key(private, passphrase))
    if identity.signing_key in missing:
        write_private(identity.signing_key, SigningKey.create().to_pem(passphrase))
    return missing


def public_key_of_node(site: SiteIdentity) -> bytes:
    """Returns the node key's public half, OpenSSH form; raises as `open_key`."""
    identity = site.identity
    return public_node_key(open_key(identity.node_key, identity.passphrase_file))


def signing_fingerprint(site: SiteIdentity) -> VerifyingKey:
    """Returns what a teacher approves of this site; raises as `SigningKey.load`."""
    identity = site.identity
    return SigningKey.load(identity.signing_key, identity.passphrase_file).public
