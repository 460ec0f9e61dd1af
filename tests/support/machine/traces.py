"""Many byte strings looked for at once: patches and answers, in the forms they take."""

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.support.machine.capture import memory_pieces

_SHORTEST = 12  # a word of eight bytes at each of four places
_WINDOW = 48
_BITS = 22
_MIX = np.uint64(0x9E3779B97F4A7C15)

Named = tuple[str, bytes]
Words = NDArray[np.uint64]


class Traces:
    """Finds any of many byte strings, at whatever place they begin.

    A string that lies in memory has, at one of its first four bytes, a word of eight
    bytes whose address is a multiple of four: those words are looked for, and what
    follows is compared.

    Args:
        named: What each is, which many may share, and its bytes.
    """

    def __init__(self, named: Iterable[Named]) -> None:
        self._anchors: defaultdict[int, list[tuple[str, bytes, int]]]
        self._anchors = defaultdict(list)
        self.kinds: set[str] = set()
        self._longest = _SHORTEST
        for kind, content in named:
            assert len(content) >= _SHORTEST, kind
            self.kinds.add(kind)
            self._longest = max(self._longest, len(content))
            for begin in range(4):
                word = int.from_bytes(content[begin : begin + 8], "little")
                self._anchors[word].append((kind, content, begin))
        self._known = np.array(sorted(self._anchors), np.uint64)
        self._table = np.zeros(1 << _BITS, np.bool_)
        self._table[_mixed(self._known)] = True

    def within(self, content: bytes) -> set[str]:
        """Returns the kinds of those that are there."""
        found: set[str] = set()
        halves = np.frombuffer(content, "<u4", len(content) // 4)
        words = halves[:-1] | halves[1:].astype(np.uint64) << np.uint64(32)
        places = np.flatnonzero(self._table[_mixed(words)])
        places = places[np.isin(words[places], self._known)]
        for place in places.tolist():
            for kind, wanted, begin in self._anchors[int(words[place])]:
                start = 4 * place - begin
                if content[max(start, 0) : start + len(wanted)] == wanted:
                    found.add(kind)
        return found

    def in_memory(self, pid: int) -> set[str]:
        """Returns the kinds that a process has anywhere in its memory."""
        return self._in(memory_pieces(pid, self._longest + 4))

    def in_files(self, folder: Path) -> set[str]:
        """Returns the kinds that lie in files below a folder."""
        files = (path for path in folder.rglob("*") if path.is_file())
        return self._in(path.read_bytes() for path in files)

    def _in(self, pieces: Iterable[bytes]) -> set[str]:
        return set[str]().union(*map(self.within, pieces))


def _mixed(words: Words) -> Words:
    return words * _MIX >> np.uint64(64 - _BITS)


def patch_traces(
    patches: NDArray[np.uint8], mean: Iterable[float], std: Iterable[float]
) -> Iterator[Named]:
    """Yields a piece of each patch in each form that a program could hold it in.

    Args:
        patches: (N, H, W, 3).
        mean: Of the teacher's normalisation.
        std: Likewise.
    """
    for patch in patches:
        share = patch.astype(np.float32) / 255
        normal = (share - np.float32(list(mean))) / np.float32(list(std))
        forms = {"uint8": patch, "float32": patch.astype(np.float32)}
        forms |= {"float32 to 1": share, "float32 normalised": normal}
        for name, form in forms.items():
            for order, array in (("HWC", form), ("CHW", form.transpose(2, 0, 1))):
                yield from _telling(f"pixels {name} {order}", array.tobytes())
        with io.BytesIO() as file:
            Image.fromarray(patch).save(file, "PNG")
            yield from _telling("pixels PNG", file.getvalue())


def answer_traces(
    embeddings: NDArray[np.float32], logits: NDArray[np.float32]
) -> Iterator[Named]:
    """Yields a piece of each answer, in both precisions.

    Args:
        embeddings: (N, D).
        logits: (N, C).
    """
    for name, rows in (("embedding", embeddings), ("logits", logits)):
        for row in rows:
            for precision in (np.float32, np.float16):
                content = row.astype(precision).tobytes()
                if len(content) >= _SHORTEST:  # few classes in few bytes tell nothing
                    kind = f"{name} {np.dtype(precision)}"
                    yield from _telling(kind, content)


def _telling(kind: str, content: bytes) -> Iterator[Named]:
    """Yields a piece from the middle on that is not all one colour, if there is one."""
    for start in range(len(content) // 2, len(content) - _SHORTEST, _WINDOW):
        piece = content[start : start + _WINDOW]
        if len(piece) >= _SHORTEST and len(set(piece)) >= len(piece) // 3:
            yield kind, piece
            return
    if len(content) <= _WINDOW:
        yield kind, content
