"""Writes `docs/configuration.md` from the models that read the config files.

make docs
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from moma_client.config.site import SiteConfig
from moma_core.config import Section
from moma_server.config.import_recipe import ImportRecipe
from moma_server.config.recipe import TeacherRecipe
from moma_server.config.server import ServerConfig

PAGE = Path(__file__).resolve().parent / "configuration.md"

FILES: Mapping[str, tuple[str, type[Section]]] = {
    "site": ("A site: `config.yaml`", SiteConfig),
    "server": ("A coordinator or teacher: `server.yaml`", ServerConfig),
    "recipe": ("How to train a teacher: `recipe.yaml`", TeacherRecipe),
    "import": ("How a model of others becomes a teacher: `import.yaml`", ImportRecipe),
}

_HEAD = """\
# Configuration

Every key of every config file, made from the models that read them (`make docs`).

- `moma-client init` and `moma-server init` write the files with comments. `--check` reads
  one and does nothing else, at a server also the files that it names; not whether ports are
  free, the model loads, or database and other machines answer. An unknown key or a value out
  of range is one sentence.
- A relative path starts at the folder of its file. A change counts from the next start.
- **required**: a file without the key is refused. `null` switches a part off.
- Sections that more than one file has are under [Shared sections](#shared-sections).
"""  # noqa: E501 - as wide as the other pages

_TABLE = ("| key | default | unit and range | meaning |", "|---|---|---|---|")
_UNITS = {
    "_per_minute": "a minute",
    "_seconds": "seconds",
    "_minutes": "minutes",
    "_hours": "hours",
    "_bytes": "bytes",
    "_bytes_per_site": "bytes",
    "_px": "pixels",
    "mpp": "µm a pixel",
}
_BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
}
_PATTERNS = {
    "host:port": "`host:port`",
    r"^ed25519:[0-9a-f]{64}$": "`ed25519:` and 64 hex digits",
    r"^[0-9a-f]{64}$": "64 hex digits",
    r"^(sqlite|postgresql)": "`sqlite...` or `postgresql...`",
    r"^(raw|png|webp|jpeg:([1-9][0-9]?|100))$": "`raw`, `png`, `webp`, `jpeg:1-100`",
    r"^[a-z][a-z0-9-]{1,62}$": "2 to 63 of a-z, 0-9, -",
    r"^[a-z][a-z0-9.-]{1,62}$": "2 to 63 of a-z, 0-9, -, .",
    r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252})$": "a host name",
    r"^[a-z][a-z0-9_]{0,47}$": "1 to 48 of a-z, 0-9, _",
}
_TYPES = {"boolean": "`true`, `false`", "object": "a map", "array": "a list"}

Schema = Mapping[str, Any]


class _Place(NamedTuple):
    """Where a section stands: in which file, under which key."""

    file: str
    path: str


def page() -> str:
    """Returns the text of `docs/configuration.md`."""
    schemas: dict[str, Schema] = {}
    places: dict[str, list[_Place]] = {}  # of each section, in the order of the files
    for file, (_, kind) in FILES.items():
        schema = kind.model_json_schema()
        schemas |= {kind.__name__: schema, **schema["$defs"]}
        for name, path in _sections(schemas, kind.__name__):
            places.setdefault(name, []).append(_Place(file, path))
    parts = [_HEAD]
    chapters = {**{file: title for file, (title, _) in FILES.items()}, "": "Shared"}
    for chapter, title in chapters.items():
        parts.append(f"## {title}{'' if chapter else ' sections'}\n")
        parts += [
            "\n".join(_section(schemas, name, places)) + "\n"
            for name, found in places.items()
            if _chapter(found) == chapter
        ]
    return "\n".join(parts)


def _chapter(places: list[_Place]) -> str:
    """Returns the one file that has a section; empty where more than one has it."""
    files = {place.file for place in places}
    return files.pop() if len(files) == 1 else ""


def _sections(
    schemas: Mapping[str, Schema], name: str, path: str = ""
) -> Iterator[tuple[str, str]]:
    """Yields a section and all below it, each with its path."""
    yield name, path
    for key, value in schemas[name]["properties"].items():
        for inner in _referred(value):
            yield from _sections(schemas, inner, f"{path}.{key}" if path else key)


def _referred(value: Schema) -> Iterator[str]:
    """Yields the names of the sections that a key may hold."""
    if "$ref" in value:
        yield value["$ref"].rpartition("/")[2]
    for option in (*value.get("oneOf", ()), *value.get("anyOf", ())):
        yield from _referred(option)


def _section(
    schemas: Mapping[str, Schema], name: str, places: Mapping[str, list[_Place]]
) -> Iterator[str]:
    """Yields a heading, what a section is for, and a table of its keys."""
    schema, found = schemas[name], places[name]
    paths = {place.path for place in found}
    prefix = f"{found[0].path}." if len(paths) == 1 and found[0].path else ""
    yield from (f'<a id="{_anchor(schemas, name, places)}"></a>', "")
    yield from (f"### {_title(schema, found)}", "")
    yield from (schema["description"], "")
    yield from _TABLE
    for key, value in schema["properties"].items():
        links = [
            f"[{_kind_name(schemas[inner]) or 'its keys'}]"
            f"(#{_anchor(schemas, inner, places)})"
            for inner in _referred(value)
        ]
        cells = (
            f"`{prefix}{key}`",
            _default(schemas, key, schema),
            _range(key, value),
            " ".join(filter(None, (_meaning(value), ", ".join(links)))),
        )
        yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _title(schema: Schema, places: list[_Place]) -> str:
    by_path: dict[str, list[str]] = {}
    for place in places:
        by_path.setdefault(place.path, []).append(place.file)
    in_files = "" if _chapter(places) else " of {}"
    titles = [
        f"`{path}`{in_files.format(' and '.join(dict.fromkeys(files)))}"
        for path, files in by_path.items()
        if path
    ]
    kind = _kind_name(schema)
    return ", ".join([*titles, *([kind] if kind else [])]) or "Top of the file"


def _kind_name(schema: Schema) -> str:
    """Returns the key and value that choose a section among its kinds; or nothing."""
    constants = (
        f"`{key}: {value['const']}`"
        for key, value in schema["properties"].items()
        if "const" in value
    )
    return next(constants, "")


def _anchor(
    schemas: Mapping[str, Schema], name: str, places: Mapping[str, list[_Place]]
) -> str:
    kind = _kind_name(schemas[name]).strip("`").partition(": ")[2]
    file = _chapter(places[name]) or "shared"
    words = [file, *places[name][0].path.split("."), kind]
    return "-".join(word for word in words if word)


def _default(schemas: Mapping[str, Schema], key: str, schema: Schema) -> str:
    value = schema["properties"][key]
    if key in schema.get("required", ()):
        return "**required**"
    default = value.get("default", {})
    if isinstance(default, dict):
        inner = [schemas[name]["properties"] for name in _referred(value)]
        changed = (
            f"{name}: {item}"
            for name, item in default.items()
            if inner and item not in ({}, inner[0][name].get("default", {}))
        )
        return ", ".join(f"`{text}`" for text in changed) or "its defaults"
    if isinstance(default, list):
        return ", ".join(f"`{item}`" for item in default) or "none"
    words = {None: "null", True: "true", False: "false", "": '""'}
    plain = default is None or isinstance(default, bool) or default == ""
    return f"`{words[default] if plain else default}`"


def _range(key: str, value: Schema) -> str:
    """Returns the choices, the bounds and the unit of a key."""
    options = [o for o in value.get("anyOf", [value]) if o.get("type") != "null"]
    one, item = options[0], options[0].get("items", {})
    parts = [_kind(one), f"each {_kind(item)}" if _kind(item) else ""]
    parts += [f"{sign} {one[name]}" for name, sign in _BOUNDS.items() if name in one]
    parts += [unit for end, unit in _UNITS.items() if key.endswith(end)]
    return ", ".join(part for part in parts if part)


def _kind(value: Schema) -> str:
    if "enum" in value or "const" in value:
        return ", ".join(f"`{it}`" for it in value.get("enum", [value.get("const")]))
    if "pattern" in value:
        return _PATTERNS[value["pattern"]]
    if value.get("format") == "path":
        return "a path"
    return _TYPES.get(value.get("type", ""), "")


def _meaning(value: Schema) -> str:
    if "const" in value:
        return "Chooses this section."
    text: str = value.get("description", "")
    return text.replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
