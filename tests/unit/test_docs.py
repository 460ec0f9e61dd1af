"""What the pages say exists: files, links, keys; and README is short."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.make_configuration import FILES, PAGE, page
from moma_client.cli import main as client
from moma_core.config import Section
from moma_server.cli import main as server

_PROJECT = Path(__file__).resolve().parents[2]
_PAGES = sorted(
    [
        *(path for path in _PROJECT.glob("*.md") if path.name != "CHANGELOG.md"),
        *(_PROJECT / "docs").rglob("*.md"),
        *(_PROJECT / "deploy").rglob("*.md"),
    ]
)
_FOLDERS = (
    *("benchmarks", "client", "deploy", "docs", "examples", "moma_core", "proto"),
    *("server", "tests"),
)
_FILES = [
    path.relative_to(_PROJECT).as_posix()
    for folder in _FOLDERS
    for path in (_PROJECT / folder, *(_PROJECT / folder).rglob("*"))
]
_README_LINES = 200

_CODE = re.compile(r"`([^`\s]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_ANCHOR = re.compile(r'<a id="([^"]+)">')
_COMMAND = re.compile(r"moma-(server|client) ([^\n#&>)`]*)")
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def _name(path: Path) -> str:
    return path.relative_to(_PROJECT).as_posix()


def _is_a_path(text: str) -> bool:
    folders = tuple(f"{folder}/" for folder in _FOLDERS)
    return text.startswith(folders) or text.endswith((".py", ".proto"))


def _exists(text: str) -> bool:
    """Whether a file or folder has this name, or ends in it."""
    wanted = text.rstrip("/")
    return any(name == wanted or name.endswith(f"/{wanted}") for name in _FILES)


def _anchors(path: Path) -> set[str]:
    """Returns what a link into a page may name, as GitHub does."""
    text = path.read_text("utf-8")
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in _HEADING.findall(text))
    return {title.replace(" ", "-") for title in plain} | set(_ANCHOR.findall(text))


def _broken_links(path: Path) -> Iterator[str]:
    for target in _LINK.findall(_FENCE.sub("", path.read_text("utf-8"))):
        file, _, anchor = target.partition("#")
        if ":" in file:
            continue
        found = (path.parent / file).resolve() if file else path
        if not found.exists() or (anchor and anchor not in _anchors(found)):
            yield target


@pytest.mark.parametrize("path", _PAGES, ids=_name)
def test_every_file_that_a_page_names_exists(path: Path) -> None:
    named = {
        text for text in _CODE.findall(path.read_text("utf-8")) if _is_a_path(text)
    }

    missing = {text for text in named if not _exists(text)}

    near = {text: _files_called(Path(text).name) for text in missing}
    assert near == {}, "what has the same name is beside it"


def _files_called(name: str) -> list[str]:
    return [file for file in _FILES if file.endswith(f"/{name}")]


@pytest.mark.parametrize("path", _PAGES, ids=_name)
def test_every_link_within_the_repository_leads_somewhere(path: Path) -> None:
    assert list(_broken_links(path)) == []


@pytest.mark.parametrize("path", _PAGES, ids=_name)
def test_every_command_in_a_block_is_one_that_the_programs_take(path: Path) -> None:
    text = path.read_text("utf-8").replace("\\\n", "")
    parsers = {"server": server._parser(), "client": client._parser()}

    for block in _FENCE.findall(text):
        for program, arguments in _COMMAND.findall(block):
            words = shlex.split(arguments.partition("<<<")[0])
            assert parsers[program].parse_args(words), arguments


def test_the_readme_can_be_read_in_one_go() -> None:
    lines = (_PROJECT / "README.md").read_text("utf-8").splitlines()

    assert len(lines) <= _README_LINES


def test_the_house_has_every_folder_of_code() -> None:
    text = (_PROJECT / "docs" / "architecture.md").read_text("utf-8")
    house = text.split("## The house", 1)[1].split("```", 2)[1]
    folders = {
        path.parent.name
        for folder in ("client", "moma_core", "proto/moma_proto", "server")
        for path in (_PROJECT / folder).rglob("__init__.py")
    }

    assert {name for name in folders if f"{name}/" not in house} == set()


def test_every_decision_is_in_the_list() -> None:
    folder = _PROJECT / "docs" / "adr"
    listed = set(_LINK.findall((folder / "README.md").read_text("utf-8")))
    there = {path.name for path in folder.glob("[0-9]*.md")}

    assert there - listed == set()


def test_the_page_of_config_keys_is_what_the_models_say() -> None:
    assert PAGE.read_text("utf-8") == page(), "refresh it: make docs"


@pytest.mark.parametrize("kind", [kind for _, kind in FILES.values()])
def test_every_config_key_has_a_meaning(kind: type[Section]) -> None:
    schema = kind.model_json_schema()
    silent = [
        f"{name}.{key}"
        for name, section in {kind.__name__: schema, **schema["$defs"]}.items()
        for key, value in section["properties"].items()
        if not {"description", "const", "$ref", "discriminator"} & set(value)
    ]

    assert silent == []
