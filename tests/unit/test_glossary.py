"""No name in the code has a word that docs/GLOSSARY.md retired."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_PROJECT = Path(__file__).resolve().parents[2]
_GLOSSARY = _PROJECT / "docs" / "GLOSSARY.md"
_PACKAGES = (
    "moma_core",
    "proto/moma_proto",
    "server/moma_server",
    "client/moma_client",
)

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")

# Names that others read or write, and that may not change.
_CONTRACTS = {
    # the memory bank: the method's own, and keys of `distillation` in a config
    "MemoryBank",
    "memory_bank",
    "bank",
    "bank_size",
    "bank_start",
    "_batches_fit_the_bank",
    # keys of config files
    "answer_deadline_seconds",
    "asks",
    "golden_patch",
    "max_patches_told",
    "patience",  # as other training tools call it
    # keys of JSON: a teacher's card, a student's card, `plan`, `egress`, a run's files
    "adopted_round",
    "answers",
    "asked",
    "golden",
    "in_bank",
    "patches_asked",
    "patches_told",
    # part of a log's name in its checkpoints
    "keeper",
    # a flag of `moma-client doctor`
    "ask",
    # a setting of httpx
    "follow_redirects",
    # the verb of a teacher
    "answer_batches",
}


def _retired() -> set[str]:
    section = _GLOSSARY.read_text("utf-8").split("## Retired words", 1)[1]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`([a-z]+)`", row)}


def _words(name: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(name)}


def _defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.arg():
                yield node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr
            case ast.alias(asname=str() as name) | ast.MatchAs(name=str() as name):
                yield name


def _names() -> dict[str, str]:
    """Returns each name that has a retired word, and one file that defines it."""
    retired, found = _retired(), {}
    for package in _PACKAGES:
        for path in (_PROJECT / package).rglob("*.py"):
            if path.stem.endswith(("_pb2", "_pb2_grpc")):
                continue
            place = path.relative_to(_PROJECT)
            names = {*_defined(ast.parse(path.read_text("utf-8"))), *place.parts[:-1]}
            found |= {
                name: str(place)
                for name in names | {path.stem}
                if _words(name) & retired
            }
    return found


def test_no_name_has_a_retired_word() -> None:
    new = {n: p for n, p in _names().items() if n not in _CONTRACTS}

    assert new == {}, "use the word that docs/GLOSSARY.md has for it"


def test_no_allowed_name_is_gone() -> None:
    gone = _CONTRACTS - set(_names())

    assert gone == set(), "delete these lines here"


def test_the_glossary_retires_words_that_the_field_does_not_use() -> None:
    retired = _retired()
    text = _GLOSSARY.read_text("utf-8").split("## Retired words")[0]
    terms = re.findall(r"^\| ([^|`]+?) \|", text, re.MULTILINE)

    used = {word for term in terms for word in re.findall(r"[a-z]+", term.lower())}

    assert len(retired) > 40
    assert used & retired == {"bank"}  # of memory bank, the only one
