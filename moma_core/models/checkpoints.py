"""Files of weights that others made: read without running code, and renamed.

Used where a teacher is built; what it serves from afterwards is safetensors alone.
"""

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from moma_core.config import Section
from moma_core.errors import ConfigError
from moma_core.models.archives import check_unpacked
from moma_core.models.backbone import Backbone, dinov2_to_timm

Layout = Literal["timm", "dinov2", "transformers"]

TensorDict = Mapping[str, Tensor]

_SHOWN = 3
_DEEPEST = 2  # dictionaries; the state of an optimizer lies one deeper
_MOST_KEYS = 1_000_000  # of all of them; one that stands in many places counts in each
_LENGTH_BYTES = 8  # of the header of safetensors, which is JSON


class KeysSection(Section):
    """How the keys of a file become those of the model; done in this order."""

    nested: str = Field(
        default="",
        description="Key of the tensors in the file, such as teacher, or "
        "teacher.backbone of one inside another; empty: found.",
    )
    strip: tuple[str, ...] = Field(
        default=(), description="Prefixes that are cut off, each once, in this order."
    )
    drop: tuple[str, ...] = Field(
        default=(),
        description="Regular expressions of keys that are left out, without those "
        "prefixes.",
    )
    layout: Layout = Field(
        default="timm",
        description="Whose names the file has; transformers: of ViT and Dinov2 there.",
    )
    rename: Mapping[str, str] = Field(
        default_factory=dict,
        description="Regular expression: what takes its place, as re.sub does.",
    )

    @field_validator("drop", "rename")
    @classmethod
    def _are_expressions(cls, values: object) -> object:
        for pattern in values if isinstance(values, tuple | Mapping) else ():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no expression: {error}") from None
        return values

    @field_validator("rename")
    @classmethod
    def _are_replacements(cls, values: Mapping[str, str]) -> Mapping[str, str]:
        for pattern, new in values.items():
            try:
                re.sub(pattern, new, "")
            except (re.error, IndexError) as error:
                raise ValueError(f"{new!r} replaces nothing: {error}") from None
        return values


class WeightsInFile(NamedTuple):
    """The tensors of a file.

    Args:
        tensors: By the names that they have in it.
        nested: Key below which they stand; empty: the file itself has them.
        others: Keys of the file below which there are tensors as well.
    """

    tensors: dict[str, Tensor]
    nested: str
    others: tuple[str, ...]


def read_tensors(path: Path, nested: str = "") -> dict[str, Tensor]:
    """Returns the tensors of a file; arguments and errors as of `read_checkpoint`."""
    return read_checkpoint(path, nested).tensors


def read_checkpoint(path: Path, nested: str = "") -> WeightsInFile:
    """Reads a file of tensors: safetensors, or a pickle that holds nothing else.

    Args:
        path: safetensors, or what torch.save wrote of tensors in plain containers.
        nested: Key of the tensors in it, `outer.inner` of a dictionary in another;
            empty: the file itself, or the largest of the dictionaries in it, of equal
            ones that of `teacher`.

    Raises:
        ConfigError: It cannot be read, holds more than tensors, or none.
    """
    content = _content(path)
    inner = _of_tensors(path, content)
    if not nested and not _tensors_in(content) and inner:
        nested = max(
            inner,
            key=lambda key: (_tensors_in(inner[key]), "teacher" in key.split(".")),
        )
    if nested:
        if nested not in inner:
            raise ConfigError(
                f"{path} has no tensors below {nested!r}; it has {_some(content)}, and "
                f"tensors below {_some(inner)}"
            )
        content = inner[nested]
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise ConfigError(f"{path} holds no tensors; it has {_some(content)}")
    for name, tensor in tensors.items():
        _check_is_whole(path, name, tensor)
    others = tuple(key for key in inner if key != nested)
    return WeightsInFile(tensors, nested, others)


def _of_tensors(
    path: Path, content: Mapping[str, object]
) -> dict[str, Mapping[str, object]]:
    """Returns the dictionaries in a dictionary that hold tensors, by their keys."""
    inner, keys = {}, 0
    for key, found in _dictionaries(content, _DEEPEST):
        keys += len(found) + 1
        if keys > _MOST_KEYS:
            raise ConfigError(f"{path} has more than {_MOST_KEYS:,} keys")
        if _tensors_in(found):
            inner[key] = found
    return inner


def _dictionaries(
    content: Mapping[str, object], depth: int
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yields the dictionaries in a dictionary, with their keys."""
    for key, value in content.items():
        if not isinstance(value, Mapping):
            continue
        yield str(key), value
        if depth > 1:
            for inside, found in _dictionaries(value, depth - 1):
                yield f"{key}.{inside}", found


def _check_is_whole(path: Path, name: str, tensor: Tensor) -> None:
    """Refuses a tensor that shows one value many times: a copy of it fills memory."""
    is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not is_plain or tensor.nbytes > tensor.untyped_storage().nbytes():
        raise ConfigError(
            f"{path} does not hold the values of {name[:80]!r}, of shape "
            f"{tuple(tensor.shape)}: save the model's state_dict() of plain tensors"
        )


def _content(path: Path) -> Mapping[str, object]:
    if _is_safetensors(path):
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"cannot read weights {path}: {error}") from error
    check_unpacked(path)
    try:
        with warnings.catch_warnings():  # of the pickle's age
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = re.search(r"(?:GLOBAL|global) `?([\w.]{1,80})", str(error))
        more = f", such as {what[1]}, which would run code" if what else ", or none"
        raise ConfigError(
            f"{path} is a pickle of more than tensors{more}: save the model's "
            "state_dict(), or safetensors"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read weights {path}: {error}") from None
    except Exception as error:  # noqa: BLE001 - the border: torch raises anything
        raise ConfigError(
            f"cannot read weights {path}: the file is damaged, or not what torch.save "
            f"writes ({type(error).__name__})"
        ) from None
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} holds a {type(content).__name__}, no state dict")
    return content


def _is_safetensors(path: Path) -> bool:
    """Whether the file is one, whatever its name; a pickle is none by its first bytes.

    Raises:
        ConfigError: It cannot be read, or is none and has the name of one.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_LENGTH_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read weights {path}: {error}") from None
    is_one = head[_LENGTH_BYTES:] == b"{"
    if path.suffix == ".safetensors" and not is_one:
        raise ConfigError(
            f"cannot read weights {path}: it is no safetensors file; what torch.save "
            "wrote is named .pth or .bin"
        )
    return is_one


def _tensors_in(content: Mapping[str, object]) -> int:
    return sum(isinstance(value, Tensor) for value in content.values())


def renamed(tensors: TensorDict, keys: KeysSection) -> dict[str, Tensor]:
    """Returns tensors under the names that a config's table gives them.

    Raises:
        ConfigError: Two keys become one.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key
        for prefix in keys.strip:
            name = name.removeprefix(prefix)
        if any(re.search(pattern, name) for pattern in keys.drop):
            continue
        for pattern, new in keys.rename.items():
            name = re.sub(pattern, new, name)
        if name in found:
            raise ConfigError(f"two keys of the file become {name!r}, one is {key!r}")
        found[name] = tensor
    return from_transformers(found) if keys.layout == "transformers" else found


_TRANSFORMERS = {
    r"^embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"^embeddings\.position_embeddings$": "pos_embed",
    r"^embeddings\.(cls_token|register_tokens|mask_token)$": r"\1",
    r"^encoder\.layer\.": "blocks.",
    r"^layernorm\.": "norm.",
    r"\.layernorm_before\.": ".norm1.",
    r"\.layernorm_after\.": ".norm2.",
    r"\.attention\.output\.dense\.": ".attn.proj.",
    r"\.intermediate\.dense\.": ".mlp.fc1.",
    r"(blocks\.\d+)\.output\.dense\.": r"\1.mlp.fc2.",
    r"\.mlp\.weights_in\.": ".mlp.fc1.",
    r"\.mlp\.weights_out\.": ".mlp.fc2.",
    r"\.layer_scale([12])\.lambda1$": r".ls\1.gamma",
}
_ATTENTION = re.compile(
    r"^(.*)\.attention\.attention\.(query|key|value)\.(weight|bias)$"
)


def from_transformers(tensors: TensorDict) -> dict[str, Tensor]:
    """Returns tensors of a ViT or Dinov2 of transformers under DINOv2's own names.

    Query, key and value are three tensors there and one here.
    """
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name = key
        for pattern, new in _TRANSFORMERS.items():
            name = re.sub(pattern, new, name)
        part = _ATTENTION.match(name)
        if part is None:
            found[name] = tensor
        else:
            parts.setdefault(f"{part[1]}.attn.qkv.{part[3]}", {})[part[2]] = tensor
    for name, each in parts.items():
        if len(each) < len(("query", "key", "value")):
            raise ConfigError(f"{name} lacks query, key or value in the file")
        found[name] = torch.cat([each["query"], each["key"], each["value"]])
    return found


def load_checkpoint(model: Backbone, tensors: TensorDict, keys: KeysSection) -> None:
    """Puts the tensors of another maker's file into a model, all of them.

    Args:
        model: Its weights are replaced.
        tensors: As `read_tensors` gives them.
        keys: How they are renamed.

    Raises:
        ConfigError: They do not fit; the message names keys and their nearest.
    """
    weights = renamed(tensors, keys)
    if keys.layout != "timm":
        weights = dinov2_to_timm(weights, model)
    own = {name.removeprefix("model."): t for name, t in model.state_dict().items()}
    if "linear.weight" in own:  # a classifier on pooled tokens
        weights = {
            re.sub(r"^head\.", "linear.", name): weights[name] for name in weights
        }
    fault = misfit(weights, own)
    if fault:
        raise ConfigError(f"the keys do not fit {model.architecture}: {fault}")
    model.load_state_dict(
        {name: weights[name.removeprefix("model.")] for name in model.state_dict()}
    )


def misfit(weights: TensorDict, own: TensorDict) -> str:
    """Returns what does not fit, as half a sentence; empty: everything fits."""
    faults = []
    missing = [name for name in own if name not in weights]
    strange = [name for name in weights if name not in own]
    if missing:
        faults.append(f"{_counted(missing)} of the model not in the file")
    if strange:
        nearest = _nearest(strange, missing or list(own))
        faults.append(f"{_counted(strange)} of the file not in the model{nearest}")
    shapes = [
        f"{name} is {tuple(weights[name].shape)} in the file and {tuple(t.shape)} in "
        "the model"
        for name, t in own.items()
        if name in weights and weights[name].shape != t.shape
    ]
    if shapes:
        more = f" and {len(shapes) - 1} more" if len(shapes) > 1 else ""
        faults.append(shapes[0] + more)
    return "; ".join(faults)


def _nearest(strange: list[str], names: list[str]) -> str:
    """Returns which name is meant, of the first key that is like any."""
    for key in strange[:_SHOWN]:
        near = get_close_matches(key, names, 1, 0.3)
        if near:
            of = "" if key == strange[0] else f" to {key}"
            return f" (nearest{of}: {near[0]})"
    return ""


def _counted(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} {'key' if len(names) == 1 else 'keys'} ({shown})"


def _some(content: Mapping[str, object]) -> str:
    names = [str(name) for name in content]
    return (", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")) or "-"


_BODY = "backbone."


def guessed_keys(tensors: TensorDict, *, classes: int) -> KeysSection:
    """Returns the table for a file by the marks of its keys, for a person to correct.

    Args:
        tensors: As `read_tensors` gives them.
        classes: Of the classifier that is wanted; 0: none, and the file's is dropped.
    """
    names = list(tensors)
    strip = []
    while True:
        first = names[0].partition(".")[0] + "."
        if first == "." or not all(name.startswith(first) for name in names):
            break
        if first in {"blocks.", "layers.", "features."}:
            break
        strip.append(first)
        names = [name.removeprefix(first) for name in names]
    if any(name.startswith(_BODY) for name in names):  # beside a head of its own
        strip.append(_BODY)
        names = [name.removeprefix(_BODY) for name in names]
    layout: Layout = "timm"
    if any(name.startswith(("embeddings.", "encoder.layer.")) for name in names):
        layout = "transformers"
    elif {"register_tokens", "mask_token"} & set(names):
        layout = "dinov2"
    extra = ("pooler.", "head.", "fc.", "classifier.")
    drop = tuple(
        f"(^|\\.){re.escape(part)}"
        for part in (extra if classes == 0 else extra[:1])
        if any(name.startswith(part) for name in names)
    )
    return KeysSection(strip=tuple(strip), layout=layout, drop=drop)
