"""The guides: every block is run or says why not, and every message is one of ours."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

_PROJECT = Path(__file__).resolve().parents[2]
_GUIDES = sorted((_PROJECT / "docs" / "guides").glob("*.md"))
_SOURCES = ("moma_core", "proto/moma_proto", "server/moma_server", "client/moma_client")
_BLOCK = re.compile(r"^```(\w+)$.*?^```$", re.DOTALL | re.MULTILINE)
_MARK = re.compile(r"<!-- (run(: .+)?|into \S+: \d|not run: \S.{10,}) -->$")
_ROW = re.compile(r"^\| `(.+)` \| .+ \|$", re.MULTILINE)
_ANYTHING = "…"
_GUIDE_LINES = 140


def _name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("guide", _GUIDES, ids=_name)
def test_every_block_of_a_guide_is_run_or_says_why_not(guide: Path) -> None:
    text = guide.read_text("utf-8")

    for block in _BLOCK.finditer(text):
        before = text[: block.start()].rstrip("\n").rpartition("\n")[2]
        assert _MARK.match(before), block[0]


@pytest.mark.parametrize("guide", _GUIDES, ids=_name)
def test_a_guide_can_be_read_in_one_go(guide: Path) -> None:
    assert len(guide.read_text("utf-8").splitlines()) <= _GUIDE_LINES


def test_every_guide_is_in_the_list() -> None:
    listed = (_PROJECT / "docs/guides/README.md").read_text("utf-8")

    assert [one.name for one in _GUIDES if f"]({one.name})" not in listed] == [
        "README.md"
    ]


def test_every_message_of_the_troubleshooting_page_is_said_by_the_source() -> None:
    page = (_PROJECT / "docs/guides/troubleshooting.md").read_text("utf-8")
    messages = _ROW.findall(page)
    said = _said()

    strange = [one for one in messages if not _is_said(one, said)]
    assert len(messages) > 20
    assert strange == []


def test_a_message_that_nobody_says_is_found() -> None:
    assert not _is_said("the teacher is … and cannot … today", _said())


def _is_said(message: str, said: tuple[str, ...]) -> bool:
    """Whether a text of the source has the message's words, in their order."""
    parts = [part for part in message.split(_ANYTHING) if part.strip(" :;,.")]
    wanted = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
    return any(wanted.search(text) for text in said)


@cache
def _said() -> tuple[str, ...]:
    files = (
        file
        for folder in _SOURCES
        for file in (_PROJECT / folder).rglob("*.py")
        if "_pb2" not in file.name
    )
    return tuple(
        text for file in files for text in _texts(ast.parse(file.read_text("utf-8")))
    )


def _texts(tree: ast.AST) -> Iterator[str]:
    """Yields the strings of a module, with `…` for what stands in braces."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else _ANYTHING
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
