"""A record of the teacher cache on disk: checked, or sealed with the site's key.

A record that was torn, damaged, moved, or never written does not open; there is no
other state, so nothing has to be written in an order.
"""

import hashlib
import secrets
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from moma_core.errors import ConfigError

KEY_BYTES = 32
SALT_BYTES = 16
_CHECK_BYTES = 16
_NONCE_BYTES = 12
_TAG_BYTES = 16


class Records(Protocol):
    """Between what a record says and its bytes on disk."""

    def closed(self, slot: int, content: bytes) -> bytes:
        """Returns the record for a place in the file."""
        ...

    def opened(self, slot: int, record: bytes) -> bytes | None:
        """Returns its content; None: damaged, of another place, or never written."""
        ...


class PlainRecords:
    """Readable by whoever reads the disk; a checksum finds damage.

    Args:
        cache: Digest of the cache's identity: no other cache's record opens.

    Attributes:
        overhead_bytes: What a record takes beside its content.
    """

    overhead_bytes = _TAG_BYTES

    def __init__(self, cache: bytes) -> None:
        self._cache = cache

    def closed(self, slot: int, content: bytes) -> bytes:
        """Appends the checksum."""
        return content + self._checksum(slot, content)

    def opened(self, slot: int, record: bytes) -> bytes | None:
        """Returns the content if the checksum fits."""
        content = record[:-_TAG_BYTES]
        is_whole = record[-_TAG_BYTES:] == self._checksum(slot, content)
        return content if is_whole else None

    def _checksum(self, slot: int, content: bytes) -> bytes:
        place = self._cache + slot.to_bytes(8, "big")
        hasher = hashlib.blake2b(place, digest_size=_TAG_BYTES, person=b"moma bank")
        hasher.update(content)
        return hasher.digest()


class SealedRecords:
    """AES-256-GCM; the tag finds damage as a checksum would.

    A nonce is drawn for every write. Each file has a key of its own, so that they
    meet the bound for random nonces: 2**32 writes with one key.

    Source: NIST SP 800-38D, section 8.3; RFC 5869 for the key.

    Args:
        site_key: Of the key file, KEY_BYTES long.
        salt: Of the file.
        cache: Digest of the cache's identity.

    Attributes:
        overhead_bytes: What a record takes beside its content.
        key_check: Distinguishes this key from others, and says nothing about it.
    """

    overhead_bytes = _NONCE_BYTES + _TAG_BYTES

    def __init__(self, site_key: bytes, salt: bytes, cache: bytes) -> None:
        derived = HKDF(SHA256(), KEY_BYTES + _CHECK_BYTES, salt, b"moma bank" + cache)
        material = derived.derive(site_key)
        self._cipher = AESGCM(material[:KEY_BYTES])
        self.key_check = material[KEY_BYTES:]

    def closed(self, slot: int, content: bytes) -> bytes:
        """Encrypts, under a new nonce."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, slot.to_bytes(8, "big"))

    def opened(self, slot: int, record: bytes) -> bytes | None:
        """Decrypts."""
        nonce, sealed = record[:_NONCE_BYTES], record[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, sealed, slot.to_bytes(8, "big"))
        except InvalidTag:
            return None


def parse_key(content: bytes) -> bytes:
    """Returns the key that a key file holds: 32 bytes, or as many in hex.

    Raises:
        ConfigError: It holds neither.
    """
    if len(content) == KEY_BYTES:
        return content
    try:
        key = bytes.fromhex(content.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"the teacher cache's key file holds {len(content)} bytes, "
            f"not {KEY_BYTES}, nor {2 * KEY_BYTES} hex digits"
        )
    return key
