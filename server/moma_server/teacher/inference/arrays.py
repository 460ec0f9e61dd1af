"""Models that take and give arrays by name: files of other makers, model servers."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from moma_core.errors import TeacherUnavailableError, listed
from moma_core.models.token_pool import TOKEN_POOLINGS
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.query import Pixels
from moma_server.config.backend import ArrayBackendSection, OutputsOfModelSection
from moma_server.teacher.inference.backend import ModelOutput

Array = NDArray[Any]

_logger = logging.getLogger(__name__)

_SMALLEST_PROBABILITY = 1e-12


class TooManyPatchesError(TeacherUnavailableError):
    """A pass was refused, and fewer patches at once may not be; stays in this part."""


class TensorShape(NamedTuple):
    """A tensor of a model, as the model says.

    Args:
        name: Its name.
        dtype: In the words of the runtime.
        shape: A length an axis; None: any.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Runner(Protocol):
    """Runs a network that somebody else wrote down."""

    @property
    def inputs(self) -> tuple[TensorShape, ...]:
        """What it takes."""
        ...

    @property
    def outputs(self) -> tuple[TensorShape, ...]:
        """What it gives; empty: it does not say before it runs."""
        ...

    def run(self, values: Array, wanted: tuple[str, ...]) -> Mapping[str, Array]:
        """Returns the outputs of those names, or more of them.

        Args:
            values: Patches, in the layout and type that the input has.
            wanted: Names of outputs.

        Raises:
            TooManyPatchesError: It fails, and may take fewer.
            TeacherUnavailableError: It fails; the message may go to a site.
        """
        ...


class ArrayBackend:
    """A teacher whose network takes and gives arrays.

    Args:
        section: Says how patches go in, and which outputs are which.
        card: Gives mean and standard deviation.
        runner: The network.
    """

    def __init__(
        self, section: ArrayBackendSection, card: TeacherCard, runner: Runner
    ) -> None:
        self._section = section
        self._card = card
        self._runner = runner
        self._mean = np.asarray(card.mean, np.float32)
        self._std = np.asarray(card.std, np.float32)
        self._most_patches: int | None = None  # at once; None: nothing was refused
        self._taken = 0  # the most patches that were answered at once

    @property
    def card(self) -> TeacherCard:
        """What the model says of itself."""
        return self._card

    def predict(self, pixels: Pixels) -> ModelOutput:
        """Returns embedding (N, D) and logits (N, C).

        Raises:
            TeacherUnavailableError: The network fails, or lacks an output.
        """
        embeddings, logits = zip(*self._parts(self._values(pixels)), strict=True)
        return np.concatenate(embeddings), np.concatenate(logits)

    def _parts(self, values: Array) -> Iterator[ModelOutput]:
        """Yields outputs, of as many patches at once as the network takes."""
        fixed = self._section.batch_patches
        most = fixed or self._most_patches or len(values)
        start = 0
        while start < len(values):
            part = filled = values[start : start + most]
            if fixed and len(part) < fixed:
                filled = np.resize(part, (fixed, *part.shape[1:]))
            try:
                embedding, logits = self._pass(filled)
            except TooManyPatchesError as error:
                if fixed or len(part) <= max(1, self._taken):  # not for their number
                    self._taken = 0  # unless its limit was lowered: the next try tells
                    raise TeacherUnavailableError(str(error)) from None
                most = len(part) // 2
                continue
            self._taken = max(self._taken, len(part))
            yield embedding[: len(part)], logits[: len(part)]
            start += len(part)
        if not fixed and most < len(values) and most != self._most_patches:
            _logger.warning(
                "the model does not take %d patches at once: it gets %d from now on",
                len(values),
                most,
            )
            self._most_patches = most

    def _values(self, pixels: Pixels) -> Array:
        """Returns the patches as the network takes them."""
        given = self._section.input
        values: Array = pixels
        if given.values == "bytes":
            if pixels.dtype != np.uint8:
                values = np.rint(pixels * 255).astype(np.uint8)
        else:
            scale = 255 if pixels.dtype == np.uint8 else 1
            values = pixels.astype(np.float32) / np.float32(scale)
            if given.values == "normalised":
                values = (values - self._mean) / self._std
        if given.layout == "nchw":
            values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values)

    def _pass(self, values: Array) -> ModelOutput:
        names = self._section.outputs
        wanted = tuple(filter(None, (names.embedding, names.logits)))
        found = self._runner.run(values, wanted)
        for name in wanted:
            if name not in found:
                raise TeacherUnavailableError(
                    f"the model has no output {name!r}; it has {listed(found)}"
                )
        logits = np.empty((len(values), 0), np.float32)
        if names.logits:
            logits = _rows(found[names.logits], len(values), names.logits)
            if names.probabilities:
                logits = np.log(np.clip(logits, _SMALLEST_PROBABILITY, 1))
        if not names.embedding:
            return logits, logits
        return _embedding(found[names.embedding], len(values), names), logits


def _embedding(values: Array, patches: int, names: OutputsOfModelSection) -> Array:
    pool: Callable[..., torch.Tensor] | None = TOKEN_POOLINGS.get(names.pooling)
    if pool is None:
        return _rows(values, patches, names.embedding)
    if values.ndim != len("NTD"):
        raise TeacherUnavailableError(
            f"the model's output {names.embedding!r} has shape {values.shape}, and "
            f"pooling {names.pooling!r} is of (N, T, D)"
        )
    tokens = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    pooled: Array = pool(tokens, names.prefix_tokens).numpy()
    return _rows(pooled, patches, names.embedding)


def _rows(values: Array, patches: int, name: str) -> NDArray[np.float32]:
    """Returns (N, D) of (N, D) or (N, D, 1, 1)."""
    shape = values.shape
    if (
        len(shape) < len("ND")
        or shape[0] != patches
        or values.size != patches * shape[1]
    ):
        raise TeacherUnavailableError(
            f"the model's output {name!r} has shape {shape} for {patches} patches, "
            "where one row a patch is due"
        )
    return np.ascontiguousarray(values.reshape(patches, -1), np.float32)
