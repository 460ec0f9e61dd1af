"""Guesses what a network takes and gives, from its names, its shapes, its answers."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from moma_core.errors import ConfigError, TeacherUnavailableError, listed, quoted
from moma_core.teacher.card.reference_patch import synthetic_patch
from moma_server.config.backend import InputSection, OutputsOfModelSection
from moma_server.teacher.inference.arrays import Array, Runner, TensorShape

DEFAULT_SIDE_PX = 224

LEAST_SIDE_PX, MOST_SIDE_PX = 16, 1024
"""Sides of a teacher's input, as a recipe has them."""

_MOST_PATCHES = 4096  # of one pass, as a recipe has it

_BYTES = {"uint8", "int32", "int64"}
_FLOATS = {"float", "float16", "float32", "float64", "double", "fp16", "fp32", "fp64"}
_EMBEDDING_WORDS = ("embed", "feature", "pool", "hidden", "token")


class ShownModel(NamedTuple):
    """A network that was shown a few patches.

    Args:
        given: How patches go in.
        side_px: Their side.
        batch: How many go in at once; None: any number.
        outputs: What came out, by name.
    """

    given: InputSection
    side_px: int
    batch: int | None
    outputs: dict[str, Array]

    @property
    def input_text(self) -> str:
        """What goes in, for a person."""
        given = self.given
        at_once = f", {self.batch} at a time" if self.batch else ""
        return f"{given.name or 'the only one'}, {given.layout}, {self.side_px} px" + (
            at_once
        )


def show(runner: Runner, side_px: int | None) -> ShownModel:
    """Shows a network a few patches; tries what it does not say of them.

    Args:
        runner: The network.
        side_px: Of the patches, where the network does not say.

    Raises:
        ConfigError: It takes something else than patches, or fails.
    """
    given, side, batch = input_of(runner, side_px)
    layouts = [given]
    if runner.inputs[0].shape[1] is None and given.layout == "nchw":
        layouts.append(given.model_copy(update={"layout": "nhwc"}))
    faults = []
    for each, size in product(layouts, [None, 1] if batch is None else [batch]):
        try:
            return ShownModel(each, side, size, run_once(runner, each, side, size))
        except ConfigError as error:
            faults.append(error)
    raise faults[0]


def input_of(
    runner: Runner, side_px: int | None
) -> tuple[InputSection, int, int | None]:
    """Returns how patches go in, their side, and how many; None: any number.

    Args:
        runner: The network.
        side_px: Of the patches, where the network does not say.

    Raises:
        ConfigError: It takes something else than patches.
    """
    tensors = runner.inputs
    if len(tensors) != 1 or len(tensors[0].shape) != len("NCHW"):
        shapes = listed(f"{each.name} {each.shape}" for each in tensors)
        raise ConfigError(
            f"a teacher takes one tensor of four axes, this model takes {shapes}"
        )
    (tensor,) = tensors
    batch, first, height, last = tensor.shape
    is_last = last == 3 and first != 3
    channels, width = (last, first) if is_last else (first, last)
    if channels not in (None, 3) or (height and width and height != width):
        raise ConfigError(
            f"a teacher takes square patches of three channels, RGB; this model takes "
            f"{quoted(tensor.name)} {tensor.shape}"
        )
    side = width or height or side_px or DEFAULT_SIDE_PX
    _check_is_small(side, batch or 1)
    section = InputSection(
        name=tensor.name if runner.outputs else "",
        layout="nhwc" if is_last else "nchw",
        values="bytes" if _takes_bytes(tensor) else "normalised",
    )
    return section, side, batch


def _takes_bytes(tensor: TensorShape) -> bool:
    dtype = tensor.dtype.lower()
    if dtype not in _BYTES | _FLOATS:
        raise ConfigError(
            f"this model takes {quoted(tensor.name)} as {quoted(tensor.dtype)}, and "
            "patches are given as float32, float16, float64, uint8, int32 or int64"
        )
    return dtype in _BYTES


def _check_is_small(side_px: int, patches: int) -> None:
    """Refuses what a model asks to be shown, before it is made."""
    if side_px > MOST_SIDE_PX or patches > _MOST_PATCHES:
        raise ConfigError(
            f"the model says that it takes patches of {side_px} px, {patches} at a "
            f"time; at most {_MOST_PATCHES} of {MOST_SIDE_PX} px are tried"
        )


def run_once(
    runner: Runner, given: InputSection, side: int, batch: int | None
) -> dict[str, Array]:
    """Returns all outputs for a few patches of noise.

    Args:
        runner: The network.
        given: How patches go in.
        side: Of the patches, in pixels.
        batch: How many patches it takes; None: any number.

    Raises:
        ConfigError: It fails.
    """
    pixels = np.stack([synthetic_patch(seed, side) for seed in range(batch or 2)])
    values = pixels if given.values == "bytes" else pixels.astype(np.float32) / 255
    if given.layout == "nchw":
        values = values.transpose(0, 3, 1, 2)
    names = tuple(each.name for each in runner.outputs)
    try:
        return dict(runner.run(np.ascontiguousarray(values), names))
    except TeacherUnavailableError as error:
        raise ConfigError(
            f"the model does not take {len(values)} patches of {side} px: {error}; "
            "--input-size-px says of which side"
        ) from None


def outputs_of(
    shown: dict[str, Array], class_names: tuple[str, ...], embedding: str = ""
) -> tuple[OutputsOfModelSection, tuple[str, ...]]:
    """Guesses which output is which; class names are made up where there are none.

    Args:
        shown: Outputs by name.
        class_names: By logit, where a person named them.
        embedding: Name of its output, where that is known; empty: it is guessed.

    Raises:
        ConfigError: No output is of use, or the logits are of other classes.
    """
    tokens = [name for name, values in shown.items() if values.ndim == len("NTD")]
    rows = {name: each for name, each in shown.items() if _is_row_a_patch(each)}
    hinted = [name for name in rows if _says(name, _EMBEDDING_WORDS)]
    by_length = sorted(rows, key=lambda name: rows[name].shape[1])
    longest = by_length[-1:] if len(by_length) > 1 else []
    embedding = embedding or next(iter([*hinted, *tokens, *longest]), "")
    logits = next((name for name in by_length if name != embedding), "")
    if class_names and logits and rows[logits].shape[1] != len(class_names):
        raise ConfigError(
            f"the model's output {quoted(logits)} has {rows[logits].shape[1]} classes, "
            f"--classes names {len(class_names)}"
        )
    if not (embedding or logits):
        raise ConfigError(
            f"no output is embeddings or logits, two or more values a patch: "
            f"{shapes_of(shown)}; pooling, where it is missing, goes into the file"
        )
    section = OutputsOfModelSection(
        embedding=embedding,
        logits=logits,
        pooling="cls" if embedding in tokens else "head",
        probabilities=bool(logits) and _are_probabilities(rows[logits]),
    )
    if not logits:
        return section, ()
    made_up = tuple(f"class-{place}" for place in range(rows[logits].shape[1]))
    return section, class_names or made_up


def shapes_of(shown: dict[str, Array]) -> str:
    """Returns names and shapes of outputs, for a person."""
    return listed(f"{name} {values.shape}" for name, values in shown.items())


def _is_row_a_patch(values: Array) -> bool:
    """Whether it is (N, D) or (N, D, 1, 1), of more than one value."""
    if values.ndim not in (len("ND"), len("NDHW")) or values.shape[1] < 2:
        return False
    return bool(values.size == len(values) * values.shape[1])


def odd_outputs(shown: dict[str, Array], named: OutputsOfModelSection) -> Iterator[str]:
    """Yields what a person has to know of outputs that are no logits.

    Args:
        shown: Outputs by name.
        named: Which output is taken for what.
    """
    single = [name for name, values in shown.items() if values.shape[1:] == (1,)]
    if single and not named.logits:
        yield (
            f"backend.outputs.logits: {quoted(single[0])} has one value a patch, "
            "and logits are one a class: for its classes export two, such as (0, x)"
        )
    scores = shown.get(named.logits)
    if scores is not None and not named.probabilities and _lie_in_0_to_1(scores):
        yield (
            f"backend.outputs.logits: the values of {quoted(named.logits)} lie between "
            "0 and 1 and do not add up to 1, as behind a sigmoid: name what comes "
            "before it"
        )


def _lie_in_0_to_1(values: Array) -> bool:
    return bool((values >= 0).all() and (values <= 1).all())


def _says(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name.lower() for word in words)


def _are_probabilities(values: Array) -> bool:
    sums = values.sum(axis=1)
    return bool((values >= 0).all() and np.allclose(sums, 1, atol=1e-3))
