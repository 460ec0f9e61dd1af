"""Secrets of a site that are made when they are first needed."""

import secrets
from pathlib import Path

from moma_core.pki.key_files import read_private
from moma_core.runtime.files import write_private

_BYTES = 32


def made_once(path: Path) -> bytes:
    """Returns a secret: request ids made from it are the same on a resume.

    Raises:
        CertificateError: The file cannot be read, or others can read it.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, secrets.token_bytes(_BYTES))
    return read_private(path)
