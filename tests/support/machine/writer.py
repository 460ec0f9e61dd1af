"""Writes a private file, and stops in the middle of it until it is killed.

Arguments: the file; `whole` where the content is on the disk and has no name yet,
`named` where the file system wants a name for it.
"""

import errno
import os
import sys
import time
from pathlib import Path
from unittest import mock

from moma_core.runtime.files import write_private

SECRET = b"-----BEGIN PRIVATE KEY-----"


def _stop(_handle: int) -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    time.sleep(600)


def _opened(path: object, flags: int, *rest: int) -> int:
    if flags & os.O_TMPFILE == os.O_TMPFILE:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return _open(path, flags, *rest)  # type: ignore[arg-type]


_open = os.open


def main() -> None:
    if sys.argv[2] == "named":
        mock.patch("os.open", _opened).start()
    with mock.patch("os.fsync", _stop):
        write_private(Path(sys.argv[1]), SECRET)


if __name__ == "__main__":
    main()
