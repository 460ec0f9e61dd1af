"""The best student so far, by a figure on the validation split, and when to stop."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from moma_core.models.encoder import Encoder

Measure = Callable[[Encoder], float | None]
"""Returns a student's figure, the higher the better; None: there is none."""


class BestStudent:
    """Remembers the weights of the best epoch; its state is a part of the checkpoint.

    Attributes:
        figure: Of the best epoch; None: no epoch had one.
        step: Of the run, after which it was measured.
        weights: The student's, on the CPU.
        waited: Epochs in a row that were no better.
        measured_step: After which a student was last measured.
    """

    def __init__(self) -> None:
        self._round_end = 0
        self.forget(0)

    def forget(self, step: int) -> None:
        """Starts anew where the student was replaced by another, after a step."""
        self.figure: float | None = None
        self.step, self.waited, self.measured_step = 0, 0, step
        self.weights: dict[str, Tensor] = {}

    def begin_round(self, until_epoch: int) -> None:
        """Gives patience anew in a new round, and not where a round resumes."""
        if until_epoch != self._round_end:
            self._round_end, self.waited = until_epoch, 0

    def note(self, figure: float | None, student: Encoder, step: int) -> None:
        """Takes an epoch's figure, and its student where none was better.

        An epoch without a figure, or with NaN, is no better than another.
        """
        self.measured_step = step
        is_better = figure is not None and figure > (
            -1.0 if self.figure is None else self.figure
        )
        if not is_better:
            self.waited += 1
            return
        self.figure, self.step, self.waited = figure, step, 0
        self.weights = {
            name: tensor.detach().cpu().clone()
            for name, tensor in student.state_dict().items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resume needs."""
        return {
            "figure": self.figure,
            "step": self.step,
            "weights": self.weights,
            "waited": self.waited,
            "measured_step": self.measured_step,
            "round_end": self._round_end,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to `state_dict`; an empty one: nothing was measured yet."""
        self.forget(0)
        if not state:
            return
        self.figure, self.weights = state["figure"], dict(state["weights"])
        self.step, self.waited = state["step"], state["waited"]
        self.measured_step, self._round_end = state["measured_step"], state["round_end"]
