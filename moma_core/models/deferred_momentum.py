"""The momentum of a teacher that lives elsewhere: many steps of it in one message.

An exponential moving average composes. A teacher T that followed the students
s_1 ... s_n with decay a stands at

    T_n = a^n T + (1 - a) sum_i a^(n-i) s_i = a^n T + (1 - a^n) mean_n

where `mean_n` is the mean of the students, each with the weight that the sum gives it.
So mean and n say where the teacher stands, without a look at the teacher: whoever has T
can be brought to T_n in one move, after one step or a thousand, and again after a loss.
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor

from moma_core.models.ema import MomentumTerms, follow, moving_weights
from moma_core.models.encoder import Encoder


def share_after(decay: float, steps: int) -> float:
    """Returns 1 - decay**steps, exact also where the decay is close to 1."""
    if decay in (0, 1):
        return float(decay == 0 and steps > 0)
    return -math.expm1(steps * math.log(decay))


class MomentumState(NamedTuple):
    """Where a teacher stands that followed a student.

    Args:
        steps: Made since the teacher's own weights, n.
        mean: The student's `moving_weights`, their mean over the steps.
    """

    steps: int
    mean: dict[str, Tensor]


class DeferredMomentum(torch.nn.Module):
    """Keeps the mean of a student's weights, as a teacher's EMA weighs them.

    As a module it is part of a run's checkpoint. It holds two means: the one of the
    teacher's last move that is known to be over, and the one of now.

    Args:
        student: Leads; only read.
        terms: How the teacher moves.
    """

    steps: Tensor  # (), long
    settled_steps: Tensor  # (), long

    def __init__(self, student: Encoder, terms: MomentumTerms) -> None:
        super().__init__()
        self.terms = terms
        # In a tuple, so that the student is not saved as a part of this.
        self._leads = (student,)
        self.mean = copy.deepcopy(student).requires_grad_(False)
        self.settled_mean = copy.deepcopy(self.mean)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("settled_steps", torch.zeros((), dtype=torch.long))

    def add(self, step: int) -> None:
        """Takes the student of one step in.

        A step that failed after this and is taken again finds its student in already.

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
        follow(self.mean, self._leads[0], 1 - share)
        self.steps += 1

    def settle(self) -> None:
        """Says that the teacher stands where the mean of now brings it."""
        follow(self.settled_mean, self.mean, 0)
        self.settled_steps.copy_(self.steps)

    def now(self) -> MomentumState:
        """Returns where the teacher stands once it has moved."""
        return MomentumState(int(self.steps), moving_weights(self.mean, self.terms))

    def settled(self) -> MomentumState:
        """Returns where the teacher stood after the last move that is over."""
        mean = moving_weights(self.settled_mean, self.terms)
        return MomentumState(int(self.settled_steps), mean)
