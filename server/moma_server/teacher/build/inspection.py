"""Looks at a model that others made, and writes down what it seems to be.

What is found goes into a recipe that a person reads and corrects; only then is a card
made of it.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError

from moma_core.errors import ConfigError, TeacherUnavailableError, printable_line
from moma_core.models.checkpoints import (
    WeightsInFile,
    guessed_keys,
    load_checkpoint,
    read_checkpoint,
)
from moma_core.models.settings import ModelArgs, Pooling
from moma_core.teacher.card.reference_patch import synthetic_patch
from moma_server.config.backend import (
    BackendSection,
    FileBackend,
    OipBackend,
    OutputsOfModelSection,
    TimmBackend,
)
from moma_server.config.import_recipe import ImportRecipe
from moma_server.config.recipe import CardSection
from moma_server.teacher.build.from_model import described
from moma_server.teacher.build.model_files import (
    IMAGENET,
    config_beside,
    first_fault,
    kind_of,
    path_of,
)
from moma_server.teacher.build.onnx_graph import open_with_embedding
from moma_server.teacher.build.presets import PRESETS, Preset
from moma_server.teacher.build.signature import (
    LEAST_SIDE_PX,
    MOST_SIDE_PX,
    odd_outputs,
    outputs_of,
    shapes_of,
    show,
)
from moma_server.teacher.build.trial import outputs_for
from moma_server.teacher.inference.arrays import (
    Array,
    ArrayBackend,
    Runner,
)
from moma_server.teacher.inference.backend import TeacherBackend
from moma_server.teacher.inference.files import open_file
from moma_server.teacher.inference.load import network_of, torch_backend
from moma_server.teacher.inference.open_inference import OpenInferenceRunner

Kind = Literal["timm", "onnx", "torchscript", "exported", "oip"]

_OIP = "grpc://"
_TIMED_PATCHES = 4
_LONGEST_LINE = 2000  # characters; names in it are the model's own
_GUESSED = "mean, std: ImageNet's are a guess; the file does not say"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSetup:
    """What a person says of a model before it is looked at.

    Args:
        model: Path, or grpc://host:port/model[/version].
        name: Name of the teacher.
        organ: The tissue's organ.
        task: What is classified.
        preset: A foundation model's name in PRESETS; None: none.
        architecture: timm's name of the network; empty: as the preset or config.json
            beside the file says.
        class_names: By logit; empty: embeddings alone, or names to be corrected.
        side_px: Of the patches, where the model does not say; None: 224.
    """

    model: str
    name: str
    organ: str
    task: str
    preset: str | None = None
    architecture: str = ""
    class_names: tuple[str, ...] = ()
    side_px: int | None = None


@dataclass(slots=True)
class ModelFindings:
    """What was seen of a model.

    Args:
        recipe: What it seems to be.
        facts: A line each: what was found.
        faults: A sentence each: what a person has to correct.
    """

    recipe: ImportRecipe
    facts: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yields what a person reads."""
        for name, text in self.facts.items():
            yield printable_line(f"{name:12} {text}", _LONGEST_LINE)
        for fault in self.faults:
            yield printable_line(f"to correct   {fault}", _LONGEST_LINE)


def inspect_model(setup: ImportSetup, device: torch.device) -> ModelFindings:
    """Returns what a model seems to be, after a few patches.

    Raises:
        ConfigError: There is no such model, or it cannot be read at all.
    """
    side = setup.side_px
    if side is not None and not LEAST_SIDE_PX <= side <= MOST_SIDE_PX:
        raise ConfigError(
            f"the side of patches is {LEAST_SIDE_PX} to {MOST_SIDE_PX} px, got {side}"
        )
    if setup.model.startswith(_OIP):
        return _inspect_server(setup)
    path = path_of(setup.model)
    kind = kind_of(path)
    if kind == "timm":
        return _inspect_weights(setup, path, device)
    return _inspect_file(setup, path, kind, device)


class _Described(NamedTuple):
    """What config.json beside a file, a preset or nobody says of a network.

    Mean and std are a guess where nobody says them.
    """

    architecture: str
    model_args: ModelArgs
    pooling: Pooling
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    side_px: int
    is_guess: bool = False


def _describe(setup: ImportSetup, path: Path) -> _Described:
    if setup.preset is not None:
        preset = _preset(setup.preset)
        return _Described(
            preset.architecture,
            preset.model_args,
            preset.pooling,
            preset.mean,
            preset.std,
            setup.side_px or preset.input_size_px,
        )
    config = config_beside(path)
    architecture = setup.architecture or config.architecture
    if not architecture:
        raise ConfigError(
            f"{path} holds tensors and does not say of which network: name --preset "
            f"({', '.join(PRESETS)}) or --architecture with a name of timm"
        )
    arguments = dict(config.model_args)
    pools_nothing = arguments.pop("global_pool", None) == ""
    for name in ("num_classes", "in_chans"):
        arguments.pop(name, None)
    return _Described(
        architecture,
        arguments,
        "cls" if pools_nothing else "head",
        config.mean,
        config.std,
        setup.side_px or config.input_size[-1],
        "mean" not in config.model_fields_set,
    )


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def _inspect_weights(
    setup: ImportSetup, path: Path, device: torch.device
) -> ModelFindings:
    said = _describe(setup, path)
    content = read_checkpoint(path)
    tensors, classes = content.tensors, setup.class_names
    keys = guessed_keys(tensors, classes=len(classes))
    keys = keys.model_copy(update={"nested": content.nested})
    if setup.preset is not None and _preset(setup.preset).layout != "timm":
        keys = keys.model_copy(update={"layout": _preset(setup.preset).layout})
    backend = TimmBackend(
        kind="timm",
        architecture=said.architecture,
        model_args=said.model_args,
        pooling=said.pooling,
    )
    recipe = _recipe(setup, path, backend, said)
    recipe = recipe.model_copy(update={"keys": keys})
    parameters = sum(tensor.numel() for tensor in tensors.values())
    found = ModelFindings(recipe, _size(parameters, parameters * 4))
    found.faults.extend(_guesses(content, said))
    try:
        network = network_of(backend, "", len(classes))
        load_checkpoint(network, tensors, keys)
        card = replace(described(recipe), embedding_length=network.embedding_length)
    except ConfigError as error:
        found.faults.append(f"{error}; correct keys: or backend: in the recipe")
        return found
    found.facts["input"] = f"{said.side_px} px, mean {said.mean}, std {said.std}"
    _try(found, torch_backend(network, card, device))
    return found


def _guesses(content: WeightsInFile, said: _Described) -> Iterator[str]:
    """Yields what nobody said of a file of tensors and its network."""
    if content.others:
        others = ", ".join(map(repr, content.others))
        yield (
            f"keys.nested: the tensors below {content.nested!r} were taken; the file "
            f"has some below {others} as well"
        )
    if said.is_guess:
        yield _GUESSED


def _size(parameters: int, size_bytes: int) -> dict[str, str]:
    return {
        "parameters": f"{parameters:,}" if parameters else "not said",
        "memory": f"{size_bytes / 2**20:,.0f} MiB of weights",
    }


def _recipe(
    setup: ImportSetup,
    path: Path | None,
    backend: BackendSection,
    said: _Described,
) -> ImportRecipe:
    preset = None if setup.preset is None else _preset(setup.preset)
    card = CardSection()
    if preset is not None:
        card = CardSection(licence=preset.licence, mpp=preset.mpp)
    try:
        return ImportRecipe(
            name=setup.name,
            organ=setup.organ,
            task=setup.task,
            shown_as=preset.title if preset else said.architecture,
            model=None if path is None else path.resolve(),
            backend=backend,
            class_names=setup.class_names,
            input_size_px=said.side_px,
            mean=said.mean,
            std=said.std,
            card=card,
        )
    except ValidationError as error:
        raise ConfigError(
            f"no teacher can be made of it: {first_fault(error)}"
        ) from None


def _inspect_file(
    setup: ImportSetup,
    path: Path,
    kind: Literal["onnx", "torchscript", "exported"],
    device: torch.device,
) -> ModelFindings:
    inner = ""
    if kind == "onnx":
        runner, inner = open_with_embedding(path, device)
    else:
        runner = open_file(kind, path, device)
    seen = show(runner, setup.side_px)
    outputs, class_names = outputs_of(seen.outputs, setup.class_names, inner)
    backend = FileBackend(
        kind=kind, input=seen.given, outputs=outputs, batch_patches=seen.batch
    )
    said = _Described(kind, {}, "head", *IMAGENET, seen.side_px)
    named = replace(setup, class_names=class_names)
    size = _size(runner.parameters, path.stat().st_size)
    found = ModelFindings(_recipe(named, path, backend, said), size)
    found.facts["input"] = seen.input_text
    _report_outputs(found, seen.outputs, setup)
    _try_arrays(found, backend, runner)
    return found


def _inspect_server(setup: ImportSetup) -> ModelFindings:
    address, _, rest = setup.model.removeprefix(_OIP).partition("/")
    model, _, version = rest.partition("/")
    if not model:
        raise ConfigError(f"{setup.model} names no model: {_OIP}host:port/model")
    outputs = OutputsOfModelSection(embedding="to be found")
    try:
        section = OipBackend(
            kind="oip", address=address, model=model, version=version, outputs=outputs
        )
    except ValidationError as error:
        raise ConfigError(f"cannot ask {setup.model}: {first_fault(error)}") from None
    runner = OpenInferenceRunner(section)
    runner.check_ready()
    seen = show(runner, setup.side_px)
    section = section.model_copy(
        update={"input": seen.given, "batch_patches": seen.batch}
    )
    runner = OpenInferenceRunner(section)
    outputs, class_names = outputs_of(seen.outputs, setup.class_names)
    section = section.model_copy(update={"outputs": outputs})
    named = replace(setup, class_names=class_names)
    said = _Described(model, {}, "head", *IMAGENET, seen.side_px)
    found = ModelFindings(_recipe(named, None, section, said))
    found.facts["server"] = f"{address}, platform {runner.platform or 'not said'}"
    found.facts["input"] = seen.input_text
    _report_outputs(found, seen.outputs, setup)
    _try_arrays(found, section, runner)
    return found


def _report_outputs(
    found: ModelFindings, outputs: dict[str, Array], setup: ImportSetup
) -> None:
    found.facts["outputs"] = shapes_of(outputs)
    backend = found.recipe.backend
    if isinstance(backend, TimmBackend):
        return
    if backend.input.values == "normalised":
        found.faults.append(_GUESSED)
    if backend.outputs.logits and not setup.class_names:
        found.faults.append("class_names: they are made up, in the order of the logits")
    if not backend.outputs.embedding:
        found.faults.append(
            "backend.outputs.embedding: the model gives logits alone, which stand for "
            "the embedding; a file that gives the layer before them teaches more"
        )
    found.faults.extend(odd_outputs(outputs, backend.outputs))


def _try_arrays(
    found: ModelFindings, section: FileBackend | OipBackend, runner: Runner
) -> None:
    _try(found, ArrayBackend(section, described(found.recipe), runner))


def _try(found: ModelFindings, backend: TeacherBackend) -> None:
    """Times a few patches, and says what comes out."""
    side = found.recipe.input_size_px
    seeds = range(_TIMED_PATCHES)
    pixels = np.stack([synthetic_patch(seed, side) for seed in seeds])
    try:
        outputs_for(backend, pixels[:1])
        begin = time.perf_counter()
        embedding, logits = outputs_for(backend, pixels)
    except TeacherUnavailableError as error:
        found.faults.append(f"{error}; correct input_size_px, or backend:")
        return
    seconds = time.perf_counter() - begin
    found.facts["embedding"] = f"{embedding.shape[1]} values"
    found.facts["classes"] = str(logits.shape[1] or "none: embeddings alone")
    found.facts["speed"] = f"{len(pixels) / seconds:.1f} patches a second"
    if not (np.isfinite(embedding).all() and np.isfinite(logits).all()):
        found.faults.append("the model gives NaN or infinity for a patch of noise")
