"""What every config file has in common: read-only sections, one line a broken rule."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
)

from moma_core.config_faults import faults
from moma_core.errors import ConfigError


class Section(BaseModel):
    """A part of a config file: read-only, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _from_config_folder(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder", Path())
    return Path(folder) / path.expanduser()


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
        raise ConfigError(f"{origin} is not valid: the file holds no keys")
    context: dict[str, Any] = {"folder": origin.resolve().parent}
    try:
        return kind.model_validate(dict(values), context=context)
    except ValidationError as error:
        rules = (f"  {fault}" for fault in faults(kind, values, error))
        raise ConfigError("\n".join([f"{origin} is not valid:", *rules])) from None
