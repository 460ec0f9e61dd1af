"""Who may see a page: TLS of a certificate, and a bearer token (RFC 6750)."""

import hashlib
import hmac
import logging
import os
import re
import ssl
from pathlib import Path

from moma_core.errors import CertificateError, ConfigError
from moma_core.pki.key_files import read_private
from moma_core.runtime.files import Stamp, stat_fingerprint

_logger = logging.getLogger(__name__)

SHORTEST_TOKEN = 32
"""In characters; 32 hexadecimal ones are 128 bits."""

_LONGEST_TOKEN = 512

_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1

_SCHEME = b"bearer "


class BearerToken:
    """Tells a caller that knows the token from one that does not.

    The file is read for each request: a new token takes effect at once, and where there
    is none that can be used, nobody is shown anything.

    Args:
        path: File that holds the token and nothing else; mode 0600.

    Raises:
        ConfigError: The file is missing, others may read it, or it holds no token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        read_token(path)

    def fits(self, authorization: bytes) -> bool:
        """Returns whether an `Authorization` header carries it, in constant time."""
        try:
            token = read_token(self._path)
        except ConfigError as error:
            _logger.warning("the page is shown to nobody: %s", error)
            return False
        scheme, given = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
        return scheme.lower() == _SCHEME and hmac.compare_digest(
            hashlib.sha256(given).digest(), hashlib.sha256(token).digest()
        )


def read_token(path: Path) -> bytes:
    """Returns the token in a file.

    Raises:
        ConfigError: It is missing, others may read it, or it holds no token of 32
            to 512 characters.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            token = file.read(_LONGEST_TOKEN + 2).strip()
    except OSError as error:
        raise ConfigError(f"cannot read the token: {error}") from None
    if mode & 0o077:
        raise ConfigError(
            f"others may read the token {path}, mode {mode:04o}: chmod 600 {path}"
        )
    if not SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN:
        raise ConfigError(
            f"the token in {path} has {len(token)} characters, it takes "
            f"{SHORTEST_TOKEN} to {_LONGEST_TOKEN}: openssl rand -hex 32 makes one"
        )
    if not _TOKEN.fullmatch(token):
        raise ConfigError(f"{path} holds no token: letters, digits and -._~+/ only")
    return token


class PageTls:
    """TLS 1.3 with a certificate and key, which are read again when they change.

    Args:
        certificate: PEM, with its chain.
        key: PEM, not encrypted.
        client_authority: PEM of the CA whose certificates alone may connect; None:
            nobody is asked for one.

    Attributes:
        context: Context of the server; each handshake takes the newest certificate.

    Raises:
        ConfigError: A file is missing, others can read the key, or the two do not
            belong together.
    """

    def __init__(
        self, certificate: Path, key: Path, client_authority: Path | None = None
    ) -> None:
        self._certificate, self._key = certificate, key
        self._client_authority = client_authority
        self._stamp = self._newest_fingerprint()
        self.context = self._newest = self._loaded()
        self.context.sni_callback = self._take_newest

    def _take_newest(
        self,
        connection: ssl.SSLSocket | ssl.SSLObject,
        _name: str | None,
        _context: ssl.SSLContext,
    ) -> None:
        """Is called in every handshake; half a renewal leaves the old certificate."""
        try:
            stamp = self._newest_fingerprint()
            if stamp != self._stamp:
                self._stamp = stamp  # what cannot be used is tried, and named, once
                self._newest = self._loaded()
                _logger.info("%s is new, and in use", self._certificate)
        except ConfigError as error:
            _logger.warning("the old certificate stays in use: %s", error)
        connection.context = self._newest

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            read_private(self._key)  # refuses one that others can read
            # without a password OpenSSL would ask the terminal for one
            context.load_cert_chain(self._certificate, self._key, password="")
            if self._client_authority is not None:
                context.load_verify_locations(self._client_authority)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError, CertificateError) as error:
            raise ConfigError(
                f"cannot use the certificate {self._certificate} with the key "
                f"{self._key}: {error}"
            ) from None
        return context

    def _newest_fingerprint(self) -> Stamp:
        files = [self._certificate, self._key]
        if self._client_authority is not None:
            files.append(self._client_authority)
        try:
            return stat_fingerprint(*files)
        except OSError as error:
            raise ConfigError(f"cannot read the certificate: {error}") from None
