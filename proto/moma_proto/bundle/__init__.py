"""The thin Flower bundle, byte for byte the same wherever the package is installed.

Both sides must name the same hash. So the archive is written here, uncompressed: what
a compressor makes of the same text differs from one zlib to another.
"""

import hashlib
import io
import zipfile
from functools import cache
from importlib.resources import files

_APP_FILE = "pyproject.toml"
_CONTENT_FILE = ".info/CONTENT"
_DATE = (2026, 1, 1, 0, 0, 0)


@cache
def bundle_bytes() -> bytes:
    """Returns the bundle: the app's description and its list of contents."""
    text = files(__name__).joinpath("thin_app.toml").read_bytes()
    content = f"{_APP_FILE},{hashlib.sha256(text).hexdigest()},{len(text) * 8}"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as bundle:
        _add(bundle, _APP_FILE, text)
        _add(bundle, _CONTENT_FILE, content.encode())
    return archive.getvalue()


@cache
def bundle_hash() -> str:
    """Returns the SHA-256 of the bundle, in hexadecimal."""
    return hashlib.sha256(bundle_bytes()).hexdigest()


def _add(bundle: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.create_system = 3  # the same on every operating system
    entry.external_attr = 0o600 << 16
    bundle.writestr(entry, content)
