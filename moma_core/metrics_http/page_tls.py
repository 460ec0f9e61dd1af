"""TLS of a page: version 1.3 only, and a certificate that follows its files."""

import logging
import ssl
from pathlib import Path

from moma_core.errors import CertificateError, ConfigError
from moma_core.pki.key_files import read_private
from moma_core.runtime.followed import Stamp, stamp_of

_logger = logging.getLogger(__name__)


class PageTls:
    """The newest TLS context of a certificate and key, for one handshake at a time.

    Args:
        certificate: PEM, with its chain.
        key: PEM, not encrypted.

    Raises:
        ConfigError: A file is missing, others can read the key, or the two do not
            belong together.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate, self._key = certificate, key
        self._stamp = self._newest_stamp()
        self._context = self._loaded()

    def context(self) -> ssl.SSLContext:
        """Returns the context; half a renewal leaves the old one in use."""
        try:
            stamp = self._newest_stamp()
            if stamp != self._stamp:
                self._stamp = stamp  # what cannot be used is tried, and named, once
                self._context = self._loaded()
                _logger.info("the metrics have a new certificate")
        except ConfigError as error:
            _logger.warning("the old certificate stays in use: %s", error)
        return self._context

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            read_private(self._key)  # refuses one that others can read
            # without a password OpenSSL would ask the terminal for one
            context.load_cert_chain(self._certificate, self._key, password="")
        except (OSError, ValueError, CertificateError) as error:
            raise ConfigError(
                f"cannot use the certificate {self._certificate} with the key "
                f"{self._key}: {error}"
            ) from None
        return context

    def _newest_stamp(self) -> Stamp:
        try:
            return stamp_of(self._certificate, self._key)
        except OSError as error:
            raise ConfigError(f"cannot read the certificate: {error}") from None
