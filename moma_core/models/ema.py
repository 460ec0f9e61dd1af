"""Exponential moving averages of a network's weights: how a teacher is updated."""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from moma_core.models.encoder import Encoder
from moma_core.models.settings import BatchNorm


@dataclass(frozen=True, slots=True)
class MomentumTerms:
    """How a teacher is updated from one student.

    Args:
        decay: In [0, 1], what stays of the teacher's weights in one step.
        batch_norm: `moving`: running mean and variance are averaged like any weight,
            and normalise; `adapt`: each batch is normalised by its own.
        class_order: Where the student's class c stands in the teacher's logits; None
            where the class sets differ, and the teacher's classifier stays.
    """

    decay: float
    batch_norm: BatchNorm = "moving"
    class_order: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(f"a decay must be in [0, 1], got {self.decay}")
        order = self.class_order
        if order is not None and sorted(order) != list(range(len(order))):
            raise ValueError(f"the class order {order} is no permutation")


@torch.no_grad()
def ema_update(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Sets `average` to `decay * average + (1 - decay) * model`, tensor by tensor.

    Floating-point buffers are averaged like parameters: a batch norm's running mean
    and variance must fit the weights that made them, or the average collapses.
    Integer buffers (counts of batches) are copied.

    Source: MoCo, eq. 2 (https://arxiv.org/abs/1911.05722).

    Args:
        average: Updated in place; shapes and names as in `model`.
        model: Only read.
        decay: In [0, 1]; 1 keeps the average as it is.
    """
    for own, other in zip(_tensors(average), _tensors(model), strict=True):
        ema_step(own, other, 1 - decay)


def ema_step(own: Tensor, other: Tensor, share: float) -> None:
    """Replaces `share` of a tensor by another, in place; integers are copied."""
    if own.is_floating_point():
        own.lerp_(other, share)
    else:
        own.copy_(other)


def updated_weights(encoder: Encoder, terms: MomentumTerms) -> dict[str, Tensor]:
    """Returns the tensors of an encoder that an update reads or writes, by name.

    Parameters and buffers, without the classifier's where the class sets differ; the
    rows of the classifier stand in the encoder's own order of classes.
    """
    stays = set()
    if terms.class_order is None:
        stays = {id(tensor) for tensor in _tensors(encoder.classifier)}
    named = (*encoder.named_parameters(), *encoder.named_buffers())
    return {name: tensor for name, tensor in named if id(tensor) not in stays}


@torch.no_grad()
def update_teacher(
    teacher: Encoder, student: Mapping[str, Tensor], terms: MomentumTerms, share: float
) -> None:
    """Replaces `share` of a teacher's weights by a student's, in place.

    Args:
        teacher: Of the student's architecture.
        student: Its `updated_weights`, or a mean of them over several steps.
        terms: Give the order of the classes.
        share: In [0, 1], 1 - decay for one step.

    Raises:
        ValueError: The names differ.
    """
    for own, other in _pairs(teacher, student, terms):
        ema_step(own, other, share)


@torch.no_grad()
def relative_distance(
    teacher: Encoder, student: Mapping[str, Tensor], terms: MomentumTerms
) -> float:
    """Returns how far a student is from a teacher, over the teacher's own norm.

    The larger of two such ratios, of the parameters and of the floating-point
    buffers: a small change of one would else hide behind the norm of the other.

    Args:
        teacher: Of the student's architecture.
        student: Its `updated_weights`, or a mean of them over several steps.
        terms: Give the order of the classes.

    Raises:
        ValueError: The names differ.
    """
    squares = {True: torch.zeros(2).double(), False: torch.zeros(2).double()}
    for own, other in _pairs(teacher, student, terms):
        if own.is_floating_point():
            lengths = [
                torch.linalg.vector_norm(tensor, dtype=torch.float64).cpu()
                for tensor in (other - own, own)
            ]
            squares[isinstance(own, nn.Parameter)] += torch.stack(lengths) ** 2
    ratios = [
        float((away / whole).sqrt()) for away, whole in squares.values() if away > 0
    ]
    return max(ratios, default=0.0)


def _pairs(
    teacher: Encoder, student: Mapping[str, Tensor], terms: MomentumTerms
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields each tensor of the teacher with its student's, on one device."""
    own = updated_weights(teacher, terms)
    if own.keys() != student.keys():
        raise ValueError(f"names differ: {sorted(own.keys() ^ student.keys())[:3]}")
    by_class = {id(tensor) for tensor in _tensors(teacher.classifier)}
    # Which row of the student's classifier updates row t of the teacher's.
    rows = torch.tensor(terms.class_order or ()).argsort()
    for name, tensor in own.items():
        other = student[name].to(tensor.device)
        if id(tensor) in by_class:
            other = other[rows.to(tensor.device)]
        yield tensor, other


def set_batch_norm(encoder: nn.Module, kind: BatchNorm) -> None:
    """Sets an updated teacher to evaluation, its batch norms as the terms say.

    Only batch norms adapt: dropout stays off. Their running statistics are left as
    they are, so that the same batch has the same outputs again.
    """
    encoder.eval()
    if kind == "moving":
        return
    for part in encoder.modules():
        if isinstance(part, _BatchNorm):
            part.train()
            part.momentum = 0.0


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def share_after(decay: float, steps: int) -> float:
    """Returns 1 - decay**steps, exact also where the decay is close to 1."""
    if decay in (0, 1):
        return float(decay == 0 and steps > 0)
    return -math.expm1(steps * math.log(decay))


class MomentumState(NamedTuple):
    """The weights of a teacher that was updated from a student.

    Args:
        steps: Made since the teacher's own weights, n.
        mean: The student's `updated_weights`, their mean over the steps.
    """

    steps: int
    mean: dict[str, Tensor]


class DeferredMomentum(torch.nn.Module):
    """Keeps the mean of a student's weights, as a teacher's EMA weighs them.

    As a module it is part of a run's checkpoint. It holds two means: the one of the
    teacher's last update that is known to be done, called settled, and the newest.

    Args:
        student: Only read.
        terms: How the teacher is updated.
    """

    steps: Tensor  # (), long
    settled_steps: Tensor  # (), long

    def __init__(self, student: Encoder, terms: MomentumTerms) -> None:
        super().__init__()
        self.terms = terms
        # In a tuple, so that the student is not saved as a part of this.
        self._student = (student,)
        self.mean = copy.deepcopy(student).requires_grad_(False)
        self.settled_mean = copy.deepcopy(self.mean)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("settled_steps", torch.zeros((), dtype=torch.long))

    def add(self, step: int) -> None:
        """Adds the student of one step to the newest mean.

        A step that failed after this and is repeated finds its student added already.

        Args:
            step: Its position in the run, from 0.

        Raises:
            ValueError: It is neither the next step nor the one before.
        """
        done = int(self.steps)
        if step == done - 1:
            return
        if step != done:
            raise ValueError(f"step {step} after {done} steps")
        decay = self.terms.decay
        whole = share_after(decay, done + 1)
        share = (1 - decay) / whole if whole else 1 / (done + 1)
        ema_update(self.mean, self._student[0], 1 - share)
        self.steps += 1

    def settle(self) -> None:
        """Notes that the teacher's update by the newest mean is done."""
        ema_update(self.settled_mean, self.mean, 0)
        self.settled_steps.copy_(self.steps)

    def newest(self) -> MomentumState:
        """Returns the teacher's weights after the update that is due."""
        return MomentumState(int(self.steps), updated_weights(self.mean, self.terms))

    def settled(self) -> MomentumState:
        """Returns the teacher's weights after the last update that is done."""
        mean = updated_weights(self.settled_mean, self.terms)
        return MomentumState(int(self.settled_steps), mean)
