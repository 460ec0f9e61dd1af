"""Whatever comes from outside is taken, or refused in one sentence of ours.

A short look at every parser; `make fuzz` looks for hours. Where atheris has no wheel,
`pytest tests/fuzz --hypothesis-profile=long` looks longer.
"""

import resource
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.target import Target, is_taken
from tests.fuzz.targets import TARGETS, target

CORPUS = Path(__file__).parent / "corpus"

_SHARE = 10  # of the examples of a profile: there are many parsers
_SECONDS = 5.0  # of the processor, for one input
_MEMORY_BYTES = 64 << 20  # of Python and numpy, for one input
_ROOM_BYTES = 2 << 30  # of all, beyond what the process has before
_ODD = (
    b"\0", b"\xff", b"\n", b"{", b"]", b'"', b",", b"-1", b"NaN", b"1e999", b"null",
    b"\x1b[2J", b"\\ud800", b"\xed\xa0\x80", b"%s", b"../", b"9" * 30, b"&a [*a]",
    b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x80" * 10, b"[" * 300,
)  # fmt: skip


def _kept(name: str) -> list[Path]:
    return sorted((CORPUS / name).glob("*"))


@contextmanager
def _bounded(content: bytes) -> Iterator[None]:
    """Bounds the memory and the time that a parser takes for an input."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    tracemalloc.reset_peak()
    before, began = tracemalloc.get_traced_memory()[0], time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    taken = tracemalloc.get_traced_memory()[1] - before
    assert taken < _MEMORY_BYTES, f"{taken} bytes of memory for {content[:200]!r}"
    seconds = time.process_time() - began
    assert seconds < _SECONDS, f"{seconds} s for {content[:200]!r}"


@contextmanager
def _traced(tested: Target) -> Iterator[None]:
    """Traces memory once the parser has loaded what it needs, which is slow traced."""
    for seed in tested.seeds:
        is_taken(tested, seed)
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


@st.composite
def _changed(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """Draws a seed with a few changes, or bytes that no parser has seen."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 16))
        put = draw(st.sampled_from(_ODD) | st.binary(max_size=8))
        how = draw(st.sampled_from(("insert", "overwrite", "cut", "repeat", "end")))
        if how == "insert":
            content[at:at] = put
        elif how == "overwrite":
            content[at : at + len(put)] = put
        elif how == "cut":
            del content[at : at + length]
        elif how == "repeat":
            content[at:at] = content[at : at + length] * draw(st.integers(1, 50))
        else:
            del content[at:]
    return bytes(content)


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_takes_what_is_whole(name: str) -> None:
    taken = [is_taken(target(name), seed) for seed in target(name).seeds]

    assert taken[0]


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_takes_other_bytes_or_says_why_not(name: str) -> None:
    tested: Target = target(name)

    @settings(
        max_examples=settings().max_examples // _SHARE,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(_changed(tested.seeds) | st.binary(max_size=300))
    def assert_no_crash(content: bytes) -> None:
        with _bounded(content):
            is_taken(tested, content)

    with _traced(tested):
        assert_no_crash()


@pytest.mark.parametrize("path", [p for name in TARGETS for p in _kept(name)], ids=str)
def test_what_was_found_once_is_refused_in_a_sentence(path: Path) -> None:
    content, tested = path.read_bytes(), target(path.parent.name)

    with _traced(tested), _bounded(content):
        is_taken(tested, content)

    assert path.parent.name in TARGETS
