"""Which of a teacher's outputs leave it: its owner's choice, made before every send."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moma_core.errors import ConfigError

Precision = Literal["float32", "float16", "bfloat16"]
Floats = NDArray[np.float32]

BELOW_TOP = 20.0
"""By how much a withheld logit lies below the smallest disclosed one: e^-20 of it."""

_KEPT_BITS = {"float32": 23, "float16": 10, "bfloat16": 7}  # of the mantissa


@dataclass(frozen=True, slots=True)
class OutputPolicy:
    """Which outputs are disclosed, and how exactly.

    Args:
        embedding: Whether embeddings are disclosed.
        logits: Whether logits are disclosed.
        top_k: Only so many logits of a patch, the largest, counted from the largest;
            the others become `BELOW_TOP` less than the smallest of these, so that 1
            discloses the class and not how sure the teacher is. None: all.
        precision: To which numbers are rounded; they travel as float32.

    Raises:
        ConfigError: Nothing is disclosed, or a number is out of range.
    """

    embedding: bool = True
    logits: bool = True
    top_k: int | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if not (self.embedding or self.logits):
            raise ConfigError(
                "a teacher that discloses neither embedding nor logits is none"
            )
        if self.top_k is not None and (self.top_k < 1 or not self.logits):
            raise ConfigError(f"top_k is >= 1 and of logits, got {self.top_k}")

    @property
    def names(self) -> tuple[str, ...]:
        """The disclosed outputs, as the log names them."""
        logits = "logits" if self.top_k is None else f"top-{self.top_k}-logits"
        choices = ((self.embedding, "embedding"), (self.logits, logits))
        return tuple(name for is_disclosed, name in choices if is_disclosed)

    @property
    def card(self) -> tuple[Literal["embedding", "logits"], ...]:
        """The kinds of output that are disclosed, as the card names them."""
        kinds: list[Literal["embedding", "logits"]] = []
        if self.embedding:
            kinds.append("embedding")
        if self.logits:
            kinds.append("logits")
        return tuple(kinds)

    @property
    def text(self) -> str:
        """The names in one line."""
        return ",".join(self.names)

    def apply(self, embedding: Floats, logits: Floats) -> tuple[Floats, Floats]:
        """Returns what may leave; what is withheld has no columns.

        Args:
            embedding: (N, D).
            logits: (N, C).
        """
        nothing = np.empty((len(embedding), 0), np.float32)
        return (
            self._rounded(embedding) if self.embedding else nothing,
            self._rounded(self._top(logits)) if self.logits else nothing,
        )

    def _top(self, logits: Floats) -> Floats:
        if self.top_k is None or self.top_k >= logits.shape[1]:
            return logits
        # stable, so that of equal logits the same are disclosed every time
        order = np.argsort(-logits, axis=1, kind="stable")
        last = np.take_along_axis(logits, order[:, self.top_k - 1 : self.top_k], axis=1)
        hidden = np.ones(logits.shape, np.bool_)
        np.put_along_axis(hidden, order[:, : self.top_k], values=False, axis=1)
        disclosed = np.where(hidden, last - np.float32(BELOW_TOP), logits)
        top: Floats = disclosed - logits.max(axis=1, keepdims=True)
        return top

    def _rounded(self, values: Floats) -> Floats:
        """Rounds mantissas to nearest; the range stays float32's, nothing overflows."""
        dropped = 23 - _KEPT_BITS[self.precision]
        if dropped == 0:
            return values
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        half = np.uint32(1 << (dropped - 1))
        mask = np.uint32(0xFFFFFFFF ^ ((1 << dropped) - 1))
        return ((bits + half) & mask).view(np.float32)
