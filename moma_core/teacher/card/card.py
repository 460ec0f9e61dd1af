"""The teacher card: what a teacher says of itself before it is asked anything."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from moma_core.errors import ConfigError
from moma_core.teacher.card.card_promises import promise_fault
from moma_core.teacher.card.licence import Licence
from moma_core.teacher.card.reference_patch import GoldenPatch

Output = Literal["embedding", "logits"]


@dataclass(frozen=True, slots=True)
class TeacherCard:
    """A teacher's public description; queries are made by it.

    Args:
        name: The teacher's name in the federation.
        digest: SHA-256 of its weights, hex.
        architecture: The timm name of its encoder.
        embedding_length: D of its embeddings.
        organ: For example "colon"; decides the scenario.
        task: For example "tissue types"; decides the scenario.
        class_names: Names by logit.
        input_size_px: Side of the square patches it takes.
        mean: Per channel, of pixels in [0, 1]; applied by the teacher itself.
        std: Per channel; applied by the teacher itself.
        precision: Of its arithmetic, for example "float32".
        momentum_sessions: Whether a site may have a copy that moves with its student,
            which is close to handing out the weights.
        membership_advantage: In [-1, 1], what a threshold on the loss gains over
            guessing which patches it was trained on, as measured where it was made
            (`moma_core.evaluation.membership_inference`); None: nobody measured.
        stain: Of the slides that it was trained on, for example "H&E"; empty: not said.
        mpp: Microns a pixel of the patches that it takes; None: not said.
        pooling: From feature map to embedding, as timm names it; empty: not said.
        outputs: What it answers.
        budget_terms: On which terms patches are granted, in words.
        default_grant_patches: What a site is granted that nobody named; None: not said.
        licence: Its terms; None: it states none.
        golden: A patch and what it says to it; None: there is none.
    """

    name: str
    digest: str
    architecture: str
    embedding_length: int
    organ: str
    task: str
    class_names: tuple[str, ...]
    input_size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: str
    momentum_sessions: bool = False
    membership_advantage: float | None = None
    stain: str = ""
    mpp: float | None = None
    pooling: str = ""
    outputs: tuple[Output, ...] = ("embedding", "logits")
    budget_terms: str = ""
    default_grant_patches: int | None = None
    licence: Licence | None = None
    golden: GoldenPatch | None = None

    def is_same_model(self, other: "TeacherCard") -> bool:
        """Whether another card differs at most in policy, terms and golden patch."""
        mine = replace(
            self,
            momentum_sessions=other.momentum_sessions,
            outputs=other.outputs,
            budget_terms=other.budget_terms,
            default_grant_patches=other.default_grant_patches,
            licence=other.licence,
            golden=other.golden,
        )
        return mine == other

    def to_json(self) -> str:
        """Returns what `load` reads."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def save(self, path: Path) -> None:
        """Writes the card as JSON."""
        path.write_text(self.to_json(), "utf-8")

    @classmethod
    def load(cls, path: Path) -> "TeacherCard":
        """Reads a card.

        Raises:
            ConfigError: The file is missing or no card.
        """
        try:
            card = TypeAdapter(cls).validate_json(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the teacher card {path}: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "(file)"
            message = f"{path} is no teacher card: {where}: {first['msg']}"
            raise ConfigError(message) from None
        fault = promise_fault(card)
        if fault is not None:
            raise ConfigError(f"{path} is no teacher card: {fault}")
        return card
