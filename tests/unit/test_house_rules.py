"""The ceilings of CONTRIBUTING.md, for which the linter has no rule."""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

_PROJECT = Path(__file__).resolve().parents[2]
_PACKAGES = tuple(
    _PROJECT / name
    for name in (
        "moma_core",
        "proto/moma_proto",
        "server/moma_server",
        "client/moma_client",
    )
)

_FILE_LINES = 400
_LONG_FILE_LINES = 500
_FUNCTION_LINES = 40
_EXCEPTION_LINES = 60
_PARAMETERS = 6
_SMALL_LINES = 80
_FOLDER_MODULES = 15

# Longer than 400 lines, and why parting them would hide more than it shows.
_LONG_FILES = {
    "client/moma_client/teacher/pipeline.py": "the order of requests is one state",
    "client/moma_client/teacher/sealed_client.py": "each method is sealed alike",
}

# Longer than 40 lines, and why parting them would hide more than it shows.
_LONG_FUNCTIONS = {
    "tests/golden/test_training_steps.py:"
    "test_six_steps_of_the_whole_method_equal_the_published_ones": (
        "each line holds one published number against ours, in the method's order"
    ),
    "moma_core/api.py:distill": "half of it says what a researcher may name",
    "moma_core/training/trainer.py:Trainer.train": "half of it says what it promises",
}

# Takes more than six parameters, and why.
_MANY_PARAMETERS = {
    "moma_core/data/sources/image_files.py:FileTable.add": (
        "the cells of a row: all but the path go by name"
    ),
    "moma_core/api.py:distill": (
        "a researcher's one call: all but three have a default and go by name"
    ),
}

# Under 80 lines and imported by one neighbour only, and why they stand alone.
_SMALL_MODULES = {
    "client/moma_client/cli/examples.py": "words alone, apart from code",
    "server/moma_server/cli/training_progress.py": "loads torch, which commands do not",
}

# Folders of more than 15 modules, and why.
_FULL_FOLDERS: dict[str, str] = {}

# Classes of one name in several places, and why.
_SHARED_CLASS_NAMES: dict[str, str] = {}

# Modules named by a participle, and why.
_PARTICIPLES = {
    "client/moma_client/egress/disclosed.py": "what was disclosed",
    "client/moma_client/teacher/onboarding.py": "a noun, before first use",
    "moma_core/teacher/card/signed.py": "the signed card",
    "proto/moma_proto/convert/sealed.py": "the sealed messages",
}

# End like a participle, and are none.
_NOUNS = {"billing", "encoding", "finding", "grouping", "listing", "seed", "string"}

_CHECK = re.compile(r"^pytest\.raises$|(^|\.)_?assert_\w+$")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _sources(*roots: Path) -> list[Path]:
    return sorted(
        path
        for root in roots
        for path in root.rglob("*.py")
        if not path.stem.endswith(("_pb2", "_pb2_grpc"))
    )


_OURS = _sources(*_PACKAGES)
_TESTS = _sources(_PROJECT / "tests")


@cache  # not as the module loads, which each worker of pytest does
def _trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text("utf-8")) for path in _OURS + _TESTS}


def _name(path: Path) -> str:
    return str(path.relative_to(_PROJECT))


def _functions(path: Path) -> Iterator[tuple[str, Function]]:
    """Yields `file:Class.method` and the function, of all that a file defines."""

    def walk(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, Function | ast.ClassDef):
                yield from walk(child, names)
                continue
            inner = (*names, child.name)
            if isinstance(child, Function):
                yield f"{_name(path)}:{'.'.join(inner)}", child
            yield from walk(child, inner)

    yield from walk(_trees()[path], ())


@cache
def _all_functions() -> dict[str, Function]:
    return dict(pair for path in _OURS + _TESTS for pair in _functions(path))


def _lines(node: Function | Path) -> int:
    if isinstance(node, Path):
        return len(node.read_text("utf-8").splitlines())
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def _parameters(function: Function) -> int:
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return sum(argument.arg not in {"self", "cls"} for argument in named)


def _can_fail(test: Function) -> bool:
    """Whether a test asserts, or calls what asserts in its name."""
    return any(
        isinstance(node, ast.Assert)
        or (isinstance(node, ast.Call) and _CHECK.search(ast.unparse(node.func)))
        for node in ast.walk(test)
    )


def _module(path: Path) -> str:
    """Returns a module's full name."""
    (root,) = (p.parent for p in _PACKAGES if path.is_relative_to(p))
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path) -> Iterator[str]:
    """Yields the names that a module imports, of modules and of what is in them."""
    for node in ast.walk(_trees()[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _importers() -> Mapping[str, set[Path]]:
    """Returns who imports each of our modules."""
    found: defaultdict[str, set[Path]] = defaultdict(set)
    for path in _OURS:
        for name in _imported(path):
            found[name].add(path)
    return found


def _differences(found: Mapping[str, object], named: Mapping[str, str]) -> list[str]:
    """Returns what breaks a rule unnamed, and what is named and breaks none."""
    new = [f"new: {name} {found[name]}" for name in sorted(found.keys() - named.keys())]
    return new + [f"stale: {name}" for name in sorted(named.keys() - found.keys())]


def test_no_file_is_longer_than_400_lines_but_those_that_are_named() -> None:
    lines = {_name(path): _lines(path) for path in _OURS + _TESTS}

    assert {name: n for name, n in lines.items() if n > _LONG_FILE_LINES} == {}
    long = {name: n for name, n in lines.items() if n > _FILE_LINES}
    assert _differences(long, _LONG_FILES) == []


def test_no_function_is_longer_than_40_lines_but_those_that_are_named() -> None:
    long = {
        name: lines
        for name, function in _all_functions().items()
        if (lines := _lines(function)) > _FUNCTION_LINES
    }

    assert _differences(long, _LONG_FUNCTIONS) == []
    assert max(long.values(), default=0) <= _EXCEPTION_LINES


def test_no_function_takes_more_than_six_parameters() -> None:
    counts = {
        name: _parameters(function) for name, function in _all_functions().items()
    }

    many = {name: count for name, count in counts.items() if count > _PARAMETERS}
    assert _differences(many, _MANY_PARAMETERS) == []


def test_a_small_module_of_one_neighbour_has_a_reason() -> None:
    importers, small = _importers(), {}
    for path in _OURS:
        used_by = importers[_module(path)]
        alone = len(used_by) == 1 and {one.parent for one in used_by} == {path.parent}
        if alone and path.stem != "__init__" and _lines(path) < _SMALL_LINES:
            small[_name(path)] = used_by.pop().name

    assert _differences(small, _SMALL_MODULES) == []


def test_no_folder_has_more_than_15_modules() -> None:
    counts = Counter(
        _name(path.parent) for path in _OURS if not path.stem.startswith("__")
    )
    full = {folder: n for folder, n in counts.items() if n > _FOLDER_MODULES}

    assert _differences(full, _FULL_FOLDERS) == []


def test_no_two_classes_have_one_name() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in _OURS:
        for node in _trees()[path].body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(_name(path))
    shared = {name: found for name, found in places.items() if len(found) > 1}

    assert _differences(shared, _SHARED_CLASS_NAMES) == []


def test_no_module_is_named_by_a_participle() -> None:
    found = {
        _name(path): word
        for path in _OURS
        if (word := path.stem.rpartition("_")[2]) not in _NOUNS
        and re.search(r"[a-z]{2}(ing|ed)$", word)
    }

    assert _differences(found, _PARTICIPLES) == []


@pytest.mark.parametrize("package", _PACKAGES, ids=lambda package: package.name)
def test_every_package_says_that_it_is_typed(package: Path) -> None:
    assert (package / "py.typed").is_file()


def test_every_folder_of_code_is_a_package_and_says_what_lives_there() -> None:
    folders = {path.parent for path in _OURS}
    said = {
        _name(folder): ast.get_docstring(_trees()[folder / "__init__.py"]) or ""
        for folder in folders
        if (folder / "__init__.py").is_file()
    }

    assert {_name(folder) for folder in folders} - said.keys() == set()
    first = {name: text.split("\n\n")[0] for name, text in said.items()}
    assert [name for name, text in first.items() if not text.endswith(".")] == []


def test_no_module_is_named_for_nothing() -> None:
    names = {path.stem for path in _OURS + _TESTS}

    assert names.isdisjoint({"utils", "util", "helpers", "common", "misc"})


def test_every_test_can_fail() -> None:
    blind = [
        name
        for name, function in _all_functions().items()
        if function.name.startswith("test_") and not _can_fail(function)
    ]

    assert blind == []


def test_json_is_read_in_one_place_where_no_depth_of_it_ends_a_program() -> None:
    readers = [
        _name(path)
        for path in _OURS
        if re.search(r"\bjson\.loads?\(", path.read_text("utf-8"))
    ]

    assert readers == ["moma_core/runtime/canonical_json.py"]
