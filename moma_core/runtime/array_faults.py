"""What is raised for bytes that are no file of numpy's arrays, or a damaged one."""

import struct
import tokenize
import zipfile
import zlib
from typing import Final

ARRAY_FAULTS: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,  # encrypted; NotImplementedError is another compression
)
"""From zipfile, zlib, and numpy, which reads a header as Python before its checksum."""
