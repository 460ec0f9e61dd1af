"""Keeps a certificate fresh: renewed when two thirds of its life are over.

The programs read their certificate anew at each new connection, so that the file's
change is all that a renewal needs. How a new one is got is the caller's: from the
coordinator, or from the authority's key where it lies.
"""

import logging
import threading
from collections.abc import Callable
from datetime import datetime

from moma_core.errors import CertificateError, MomaError
from moma_core.pki.key_files import open_key
from moma_core.pki.names import PeerName
from moma_core.pki.validity import (
    IdentityFiles,
    check_own_certificate,
    life,
    renewal_time,
)
from moma_core.runtime.files import write_private

_logger = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS = 60.0

_SHORTEST_PAUSE_SECONDS = 0.5
_LOOKS_IN_A_LIFE = 30
_URGENT_SHARE = 1 / 6  # of its life is left, and it could not be renewed

Renew = Callable[[bytes, bytes], bytes]
"""Is given the certificate, PEM, and its key, unencrypted; returns the next one."""


class CertificateRenewer:
    """Looks after one certificate, from a thread of its own.

    Args:
        own: Whose it is.
        files: Where it lies.
        renew: Gets the next one; None: nobody renews it, it is only watched.
        clock: The present, with a time zone.
    """

    def __init__(
        self,
        own: PeerName,
        files: IdentityFiles,
        renew: Renew | None,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._own, self._files, self._renew = own, files, renew
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"keeper-{own.kind}", daemon=True
        )

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stops; a renewal that is under way is not waited for."""
        self._stop.set()

    def look(self) -> float:
        """Renews the certificate if it is time, and returns the seconds to wait.

        What goes wrong is logged, and tried again with the next look.
        """
        try:
            certificate = self._files.certificate.read_bytes()
            begin, end = life(certificate)
        except (OSError, CertificateError) as error:
            _logger.warning("the certificate of %s: %s", self._own, error)
            return LONGEST_PAUSE_SECONDS
        now = self._clock()
        if now >= renewal_time(certificate):
            try:
                self._renew_now(certificate, now)
            except (MomaError, OSError) as error:
                is_urgent = end - now < _URGENT_SHARE * (end - begin)
                level = logging.ERROR if is_urgent else logging.WARNING
                text = "the certificate of %s, good until %s, was not renewed: %s"
                _logger.log(level, text, self._own, end.isoformat(), error)
        pause = (end - begin).total_seconds() / _LOOKS_IN_A_LIFE
        return min(max(pause, _SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)

    def _renew_now(self, certificate: bytes, now: datetime) -> None:
        if self._renew is None:
            raise CertificateError("no address of the coordinator's enrolment is named")
        key = open_key(self._files.key, self._files.passphrase_file)
        renewed = self._renew(certificate, key)
        check_own_certificate(
            renewed,
            authority_pem=self._files.authority.read_bytes(),
            own=self._own,
            key_pem=key,
            now=now,
        )
        _, end = life(renewed)
        if end <= life(certificate)[1]:
            raise CertificateError("the new certificate does not outlive the old one")
        write_private(self._files.certificate, renewed)
        _logger.info(
            "the certificate of %s was renewed, until %s", self._own, end.isoformat()
        )

    def _run(self) -> None:
        while not self._stop.wait(self.look()):
            pass
