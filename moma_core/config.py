"""What every config file has in common: read-only sections, one line a broken rule."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails

from moma_core.errors import ConfigError, first_line, printable_line

_logger = logging.getLogger(__name__)


class Section(BaseModel):
    """A part of a config file: read-only, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    renamed_keys: ClassVar[Mapping[str, str]] = {}
    """Former name of a key -> its name today; a file that has one gets a warning."""

    added_keys: ClassVar[Mapping[str, object]] = {}
    """Keys that a release added, with what was done before it: with these values they
    change no digest, so that a checkpoint of the release before resumes."""

    foreign_keys: ClassVar[Mapping[str, str]] = {}
    """Keys that people look for in a file and that are not in it: what decides them."""

    @model_validator(mode="before")
    @classmethod
    def _rename_and_refuse(cls, values: object) -> object:
        """Renames former keys, and takes no truth (YAML's off) for a number."""
        if not isinstance(values, Mapping):
            return values
        found = dict(values)
        for former, name in cls.renamed_keys.items():
            if former in found and name not in found:
                _logger.warning("config: %s is called %s now", former, name)
                found[name] = found.pop(former)
        for key in found.keys() & cls.model_fields.keys():
            kinds = [*_types_in(cls.model_fields[key].annotation)]
            takes_truth = any(issubclass(each, bool | BaseModel) for each in kinds)
            if not takes_truth and (int in kinds or float in kinds):
                found[key] = _without_truth(found[key])
        return found

    def without_added(self) -> dict[str, object]:
        """Returns all values, but added keys that say what was done before them."""
        chosen = self.model_dump(mode="json")
        added = self.added_keys
        return {
            key: value
            for key, value in chosen.items()
            if key not in added or value != added[key]
        }


def _types_in(annotation: object) -> Iterator[type]:
    """Yields the types of the values that a field may hold, in lists and maps too."""
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from _types_in(part)


def _without_truth(value: object) -> object:
    """Returns a value in which pydantic finds no 0 or 1 where YAML read off or on."""
    if isinstance(value, bool):
        return "on, yes or true" if value else "off, no or false"
    if isinstance(value, Mapping):
        return {key: _without_truth(each) for key, each in value.items()}
    return [*map(_without_truth, value)] if isinstance(value, list) else value


def _from_config_folder(path: Path, info: ValidationInfo) -> Path:
    try:
        return Path((info.context or {}).get("folder", ".")) / path.expanduser()
    except RuntimeError:  # the sentence is made printable where it is told
        raise ValueError(f"there is no home {path.parts[0]}: write it out") from None


ConfigPath = Annotated[Path, AfterValidator(_from_config_folder)]
"""A path in a config file; a relative one is taken from the file's folder."""

ConfigT = TypeVar("ConfigT", bound=Section)


def validated(kind: type[ConfigT], values: object, origin: Path) -> ConfigT:
    """Returns `values` as a `kind`; relative paths are taken from `origin`'s folder.

    Args:
        kind: The section that stands for the whole file.
        values: What the file's parser returned.
        origin: The file, for the message and for relative paths.

    Raises:
        ConfigError: One line for each broken rule, with the key and the bad value.
    """
    if not isinstance(values, Mapping):
        held = {type(None): "nothing", list: "a list"}.get(type(values), "one value")
        raise ConfigError(
            f"{origin} is not valid: it holds {held}, and a config holds "
            f"keys, a line each, such as `key: value`; `init` writes one"
        )
    context: dict[str, Any] = {"folder": origin.resolve().parent}
    try:
        return kind.model_validate(dict(values), context=context)
    except ValidationError as error:
        rules = (f"  {fault}" for fault in faults(kind, values, error))
        raise ConfigError("\n".join([f"{origin} is not valid:", *rules])) from None


_LONGEST_VALUE = 80
_LONGEST_SENTENCE = 600
_MOST_FAULTS = 20
_MOST_NAMED = 8
_LARGEST_FILE_BYTES = 1 << 20
_MOST_CHARACTERS = 2 << 20  # of all values: an alias repeats what a file holds once
_VALUE_CHARACTERS = 16  # that a value counts for, beside those in it


def read_config_file(
    path: Path, parse: Callable[[str], object], compose: Callable[[str], Any]
) -> object:
    """Returns what a config file holds, before anything of it is checked.

    Args:
        path: The file.
        parse: Of its format, for example `yaml.safe_load`.
        compose: Returns the nodes of the text, as `yaml.compose` does.

    Raises:
        ConfigError: It cannot be read, is of another format, says a key twice, or is
            too large to be a config.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE_BYTES + 1)
        is_large = len(content) > _LARGEST_FILE_BYTES
        values = None if is_large else parse(content.decode("utf-8"))
    except Exception as error:  # the border: a parser raises anything for odd scalars
        raise unreadable(path, error) from error
    if is_large or not _is_small(values):
        raise ConfigError(f"cannot read {path}: it is too large to be a config file")
    _refuse_repeated_keys(path, compose(content.decode("utf-8")))
    return values


def _refuse_repeated_keys(path: Path, root: Any) -> None:  # noqa: ANN401 - YAML's
    """Refuses what a parser resolves in silence: of two values it takes the last."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(getattr(node, "value", None), list):
            continue
        seen.add(id(node))  # an alias is its node once more
        if node.id == "sequence":
            waiting.extend(node.value)
            continue
        waiting.extend(value for _, value in node.value)
        _refuse_repeated(path, [key for key, _ in node.value])


def _refuse_repeated(path: Path, keys: Sequence[Any]) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key in keys:
        name, line = (key.tag, str(key.value)), key.start_mark.line + 1
        if name in lines:
            raise ConfigError(
                f"cannot read {path}: line {line}: {_printable(name[1])} was said in "
                f"line {lines[name]} already: keep one of the two"
            )
        lines[name] = line


def _is_small(values: object) -> bool:
    """Whether values stay small where each alias is written out."""
    waiting, room = [values], _MOST_CHARACTERS
    while waiting and room > 0:
        value = waiting.pop()
        room -= _VALUE_CHARACTERS
        room -= len(value) if isinstance(value, str | bytes) else 0
        if isinstance(value, Mapping):
            waiting.extend((*value.keys(), *value.values()))
        elif isinstance(value, list | tuple | set):
            waiting.extend(value)
    return room > 0


def unreadable(path: Path, error: Exception) -> ConfigError:
    """Returns the error for a file that cannot be read, or is no YAML."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        reason = first_line(error)
        if isinstance(error, RecursionError):
            reason = "it is nested too deeply"
        elif isinstance(error, AttributeError | TypeError | LookupError):
            reason = "a value is not what its tag says"
        elif isinstance(error, UnicodeDecodeError):
            reason = "it is no UTF-8: save it in this encoding"
        elif isinstance(error, IsADirectoryError):
            reason = f"it is a folder: name the file, such as {path / 'config.yaml'}"
        return ConfigError(f"cannot read {path}: {_printable(reason)}")
    problem = str(getattr(error, "problem", "") or "this is no YAML")
    if "\\t" in problem:
        problem = "a tab stands where YAML wants spaces: write spaces in its place"
    if "unknown escape character" in problem:
        problem = (
            f"{problem}: between double quotes a backslash is no letter of a path; use "
            f"single quotes"
        )
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    return ConfigError(f"cannot read {path}: {where}: {problem}")


def faults(
    kind: type[BaseModel], values: Mapping[str, Any], error: ValidationError
) -> Iterator[str]:
    """Yields a sentence for each broken rule, with its key and the bad value.

    Args:
        kind: The section that stands for the whole file.
        values: What the file holds.
        error: What pydantic says of both.
    """
    rules = error.errors()
    for rule in rules[:_MOST_FAULTS]:
        key, sections = _located(rule["loc"], kind, values)
        if rule["type"] == "extra_forbidden":
            place = str(rule["loc"][-1])
            meant = _elsewhere(place, kind) or _meant(place, sections)
            yield _printable(f"unknown key {key}{meant}")
        else:
            yield _printable(_sentence(rule, key, sections))
    if len(rules) > _MOST_FAULTS:
        yield f"and {len(rules) - _MOST_FAULTS} more"


def fault_of_key(
    kind: type[BaseModel], values: Mapping[str, Any], key: str
) -> str | None:
    """Returns what is wrong with the value of one key, as a sentence; None: nothing."""
    try:
        kind.model_validate(values)
    except ValidationError as error:
        found = zip(error.errors(), faults(kind, values, error), strict=False)
        return next((text for rule, text in found if rule["loc"][:1] == (key,)), None)
    return None


def _printable(sentence: str) -> str:
    """Returns what a terminal can show, and a person reads: a key may be anything."""
    is_long = len(sentence) > _LONGEST_SENTENCE
    return printable_line(sentence, _LONGEST_SENTENCE) + ("..." if is_long else "")


def _sentence(rule: ErrorDetails, key: str, sections: Sequence[type[BaseModel]]) -> str:
    """Words the rules about keys; of a value, pydantic says what it should be."""
    name, context = rule["type"], rule.get("ctx", {})
    if name == "missing":
        return f"the key {key} is missing{_hint(rule, sections)}"
    if name == "union_tag_not_found":
        return f"the key {key}.{context['discriminator'].strip(chr(39))} is missing"
    if name == "union_tag_invalid":
        tag = context["discriminator"].strip("'")
        return f"{key}.{tag} is {context['tag']!r}: {context['expected_tags']} fit"
    if name == "value_error":
        return f"{key or '(file)'}: {rule['msg'].removeprefix('Value error, ')}"
    wanted = _wanted(rule, sections)
    return f"{key} is {_shown(rule['input'])}: {wanted}{_hint(rule, sections)}"


_NUMBERS: Mapping[str, str] = {
    "greater_than_equal": "write {ge:g} or more",
    "greater_than": "write more than {gt:g}",
    "less_than_equal": "write {le:g} or less",
    "less_than": "write less than {lt:g}",
}
_VALUES: Mapping[str, str] = {
    "int": "write a whole number, without a unit",
    "float": "write a number, with a point and without a unit",
    "finite_number": "write a number",
    "bool": "write true or false",
    "string_type": "write text, in quotes if it looks like a number",
    "path_type": "write a path",
    "tuple_type": "write a list, such as [a, b]",
    "list_type": "write a list, such as [a, b]",
    "too_short": "write {min_length} or more",
    "string_too_short": "it is empty, or too short",
    "dict_type": "write keys and values, such as {{a: b}}",
    "model": "it should be a section: write its keys below it, a line each, indented",
}
"""What to write, by pydantic's name of the fault or its beginning."""


def _wanted(rule: ErrorDetails, sections: Sequence[type[BaseModel]]) -> str:
    """Returns what to write in the place of a value."""
    name, context = rule["type"], rule.get("ctx", {})
    if name in _NUMBERS:
        return _NUMBERS[name].format(**context)
    if name == "literal_error":
        return f"write {context['expected']}"
    if name == "string_pattern_mismatch":
        pattern = context["pattern"]
        near = re.sub(r"[\W_]+", "-", str(rule["input"]).casefold()).strip("-")
        such = f", such as {near}" if re.search(pattern, near) else ""
        return f"it should be of the form {pattern}{such}"
    known = next((text for key, text in _VALUES.items() if name.startswith(key)), None)
    if known is None:
        return f"it {rule['msg'].removeprefix('Input ')}"
    if name.startswith("model"):
        last = str(rule["loc"][-1]) if rule["loc"] else ""
        found = [each.model_fields.get(last) for each in sections]
        below = [part for field in found if field for part in _parts(field.annotation)]
        fields = {name: False for part in below for name in part.model_fields}
        for part in below:
            fields |= {n: True for n, f in part.model_fields.items() if f.is_required()}
        ordered = sorted(fields, key=lambda name: not fields[name])
        named = ordered[:_MOST_NAMED]
        named += ["..."] if len(fields) > _MOST_NAMED else []
        return f"{known}: {', '.join(named)}" if fields else known
    return known.format(**context)


def _shown(value: object) -> str:
    """Returns a value, short, and without the password of an address."""
    text = re.sub(r"://[^@/]*@", "://...@", repr(value))
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _meant(key: str, sections: Sequence[type[BaseModel]]) -> str:
    known = sorted({name for section in sections for name in section.model_fields})
    near = get_close_matches(key, known, 1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _elsewhere(key: str, kind: type[BaseModel]) -> str:
    """Returns where in the file a key belongs, or who decides it; empty: nowhere."""
    decided = kind.foreign_keys.get(key) if issubclass(kind, Section) else None
    if decided is not None:
        return f": {decided}"
    places = [key] if key in kind.model_fields else []
    for name, field in kind.model_fields.items():
        if any(key in part.model_fields for part in _parts(field.annotation)):
            places.append(f"{name}.{key}")
    return f"; it is {places[0]}" if len(places) == 1 else ""


def _hint(rule: ErrorDetails, sections: Sequence[type[BaseModel]]) -> str:
    """Returns what the config says of a key, where it says something."""
    last = str(rule["loc"][-1]) if rule["loc"] else ""
    found = [each.model_fields[last] for each in sections if last in each.model_fields]
    text = found[0].description if found else None
    return f" ({text.rstrip('.')})" if text else ""


def _located(
    place: Sequence[int | str], kind: type[BaseModel], values: object
) -> tuple[str, list[type[BaseModel]]]:
    """Returns a key as the file has it, and the sections that may have this key.

    In pydantic's place of a fault, the tag of a kind of section stands as well.
    """
    names, sections = [], [kind]
    for position, item in enumerate(place):
        is_last = position == len(place) - 1
        if isinstance(values, Mapping) and item not in values and not is_last:
            sections = [each for each in sections if _has_tag(each, item)]
            continue
        if isinstance(values, str) or not isinstance(values, Mapping | Sequence):
            break
        names.append(str(item))
        if not is_last:
            values = values[item]  # type: ignore[index]  # pydantic was there before
            fields = [each.model_fields.get(str(item)) for each in sections]
            below = [part for f in fields if f for part in _parts(f.annotation)]
            sections = below or sections
    return ".".join(names), sections


def _parts(annotation: object) -> list[type[BaseModel]]:
    """Returns the sections that an annotation consists of."""
    return [each for each in _types_in(annotation) if issubclass(each, BaseModel)]


def _has_tag(section: type[BaseModel], tag: int | str) -> bool:
    return any(tag in get_args(f.annotation) for f in section.model_fields.values())
