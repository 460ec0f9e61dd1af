"""Guesses what a network takes and gives, from its names, its shapes, its answers."""

import numpy as np

from moma_core.errors import ConfigError, TeacherUnavailableError, listed, quoted
from moma_core.teacher.card.reference_patch import synthetic_patch
from moma_server.config.backend import InputSection, OutputsOfModelSection
from moma_server.teacher.inference.arrays import Array, Runner

DEFAULT_SIDE_PX = 224

MOST_SIDE_PX = 1024
"""Side of a teacher's input at most, as a recipe has it."""

_MOST_PATCHES = 4096  # of one pass, as a recipe has it

_EMBEDDING_WORDS = ("embed", "feature", "pool", "hidden", "token")


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
    side = (height if is_last else last) or side_px or DEFAULT_SIDE_PX
    _check_is_small(side, batch or 1)
    is_bytes = "8" in tensor.dtype
    section = InputSection(
        name=tensor.name if runner.outputs else "",
        layout="nhwc" if is_last else "nchw",
        values="bytes" if is_bytes else "normalised",
    )
    return section, side, batch


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
    rows = {name: v for name, v in shown.items() if v.ndim in (2, 4) and v.shape[1] > 1}
    hinted = [name for name in rows if _says(name, _EMBEDDING_WORDS)]
    by_length = sorted(rows, key=lambda name: rows[name].shape[1])
    embedding = embedding or next(iter([*hinted, *tokens]), "")
    if not embedding and len(by_length) > 1:
        embedding = by_length[-1]
    logits = next((name for name in by_length if name != embedding), "")
    if class_names and logits and rows[logits].shape[1] != len(class_names):
        raise ConfigError(
            f"the model's output {quoted(logits)} has {rows[logits].shape[1]} classes, "
            f"--classes names {len(class_names)}"
        )
    if not (embedding or logits):
        shapes = listed(f"{name} {values.shape}" for name, values in shown.items())
        raise ConfigError(f"no output is embeddings or logits: {shapes}")
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


def _says(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name.lower() for word in words)


def _are_probabilities(values: Array) -> bool:
    sums = values.sum(axis=1)
    return bool((values >= 0).all() and np.allclose(sums, 1, atol=1e-3))
