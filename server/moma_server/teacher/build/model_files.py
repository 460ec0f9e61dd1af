"""The files of a model that others made: where they lie, and what they say they are.

Nothing in them is run here, and nothing is fetched.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from moma_core.config import Section
from moma_core.errors import ConfigError, printable_line, quoted
from moma_core.models.archives import archive_entries
from moma_core.models.settings import ModelArgs
from moma_core.runtime.canonical_json import parsed_json
from moma_server.teacher.build.signature import DEFAULT_SIDE_PX, MOST_SIDE_PX

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation, per channel, where nobody names others."""

_PROGRAM_SUFFIXES = {".pt", ".pt2", ".ts", ".torchscript"}
_LONGEST_CONFIG_BYTES = 1 << 20
_LFS = b"version https://git-lfs"

_Above0 = Annotated[float, Field(gt=0)]
_Length = Annotated[int, Field(ge=1, le=MOST_SIDE_PX)]


class HubConfig(Section):
    """What a hub's config.json says of the weights beside it, as far as it is used."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    architecture: str = ""
    model_args: ModelArgs = Field(default_factory=dict)
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[_Above0, _Above0, _Above0] = IMAGENET[1]
    input_size: tuple[_Length, ...] = Field(
        default=(3, DEFAULT_SIDE_PX), min_length=1, max_length=4
    )


def kind_of(path: Path) -> Literal["timm", "onnx", "torchscript", "exported"]:
    """Returns what a file holds, by its name and its table of contents.

    Raises:
        ConfigError: There is no such file, it holds nothing, or it is a program and
            named like weights.
    """
    if not path.is_file():
        raise ConfigError(
            f"there is no file {path}; a model of the hub is named hf-hub:OWNER/NAME, "
            "one behind a server grpc://HOST:PORT/NAME"
        )
    _check_holds_something(path)
    if path.suffix == ".onnx":
        return "onnx"
    program = _program_in(path)
    if program is not None and path.suffix not in _PROGRAM_SUFFIXES:
        raise ConfigError(
            f"{path} is a program ({program}) and named like weights, which are read "
            f"and never run: ask for the state_dict(), or name it .pt if you trust "
            f"whoever made it"
        )
    return program or "timm"


def _check_holds_something(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    if not head:
        raise ConfigError(f"{path} is empty: fetch it again")
    if head == _LFS:
        raise ConfigError(
            f"{path} only says where Git LFS keeps the file: `git lfs pull` fetches it"
        )


def _program_in(path: Path) -> Literal["torchscript", "exported"] | None:
    names = [entry.filename for entry in archive_entries(path)]
    if any("/code/" in name for name in names):
        return "torchscript"
    if any(
        name.endswith(("models/model.json", "serialized_exported_program.json"))
        for name in names
    ):
        return "exported"
    return None


def path_of(model: str) -> Path:
    """Returns the file that a path, or a name of the hub, means; nothing is fetched.

    Raises:
        ConfigError: It is not on this machine, no name, or a folder without weights.
    """
    if not model.startswith("hf-hub:"):
        path = Path(model)
        return _weights_in(path) if path.is_dir() else path
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name, _, revision = model.removeprefix("hf-hub:").partition("@")
    found: str | None = None
    try:
        for file in ("config.json", "model.safetensors", "pytorch_model.bin"):
            cached = try_to_load_from_cache(name, file, revision=revision or None)
            found = cached if isinstance(cached, str) else found
    except HFValidationError:
        raise ConfigError(
            f"{quoted(model)} is no name of the hub, such as hf-hub:OWNER/NAME"
        ) from None
    if found is None or found.endswith(".json"):
        raise ConfigError(
            f"{model} is not in this machine's hub cache: fetch it once with "
            f"`hf download {name}`, where its terms are accepted, or give the file"
        )
    return Path(found)


def _weights_in(folder: Path) -> Path:
    for file in ("model.safetensors", "pytorch_model.bin"):
        if (folder / file).is_file():
            return folder / file
    raise ConfigError(f"{folder} holds no model.safetensors and no pytorch_model.bin")


def config_beside(path: Path) -> HubConfig:
    """Returns what config.json beside a file says; a file has none: nothing.

    Raises:
        ConfigError: It cannot be read, or a value cannot be.
    """
    beside = path.parent / "config.json"
    if not beside.is_file():
        return HubConfig()
    try:
        with beside.open("rb") as file:
            config = parsed_json(file.read(_LONGEST_CONFIG_BYTES))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {beside}: {error}") from None
    pretrained = config.get("pretrained_cfg", {}) if isinstance(config, dict) else None
    if not isinstance(pretrained, dict):
        raise ConfigError(f"cannot read {beside}: it is no config of timm's hub")
    own: dict[str, Any] = {**config, **pretrained}
    for name in ("architecture", "model_args"):
        own.pop(name, None)
        if name in config:
            own[name] = config[name]
    try:
        return HubConfig.model_validate(own)
    except ValidationError as error:
        raise ConfigError(f"cannot use {beside}: {first_fault(error)}") from None


def first_fault(error: ValidationError) -> str:
    """Returns the first broken rule with its key, which another may have named."""
    rule = error.errors()[0]
    return printable_line(f"{'.'.join(map(str, rule['loc']))}: {rule['msg']}")
