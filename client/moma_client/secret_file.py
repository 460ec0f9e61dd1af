"""Secrets of a site that are made when they are first needed."""

import secrets
from pathlib import Path

from moma_core.trust.files import write_private

_BYTES = 32


def made_once(path: Path) -> bytes:
    """Returns a secret: request ids made from it are the same on a resume."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, secrets.token_bytes(_BYTES))
    return path.read_bytes()
