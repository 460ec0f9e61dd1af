"""The rows of the table: every method and every ablation, by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.quality.moving import Moving
from benchmarks.quality.tissue import Federation
from moma_core.distillation.methods.names import METHODS, Method, uses_outputs


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    Args:
        name: As printed.
        method: Of the registry.
        changes: To the settings of the shipped default.
        views: V of the teacher cache; 0 asks anew for every draw.
        published: Starts from the paper's settings instead of the shipped ones.
        labelled_share: Of a batch, at least; 0 draws every patch equally often.
        moving: How the teacher moves; None: frozen.
        federation: How many sites, and what they share.
        training: Changes to the `Course` of the other rows, such as `ema_decay`.
        mixed_answers: Alpha of the mixtures that the student sees; 0: it sees patches.
    """

    name: str
    method: Method
    changes: Mapping[str, Any] = field(default_factory=dict)
    views: int = 4
    published: bool = False
    labelled_share: float = 0.5
    moving: Moving | None = None
    federation: Federation = "none"
    training: Mapping[str, Any] = field(default_factory=dict)
    mixed_answers: float = 0.0


def _views(method: Method) -> int:
    """Who asks nobody saves nothing by showing a view again."""
    return 4 if uses_outputs(method) else 0


def _moma(name: str, **changes: Any) -> Row:  # noqa: ANN401
    return Row(name, "moma", changes)


# The paper's losses: three attentions, two of which never learn. Its teacher is frozen,
# as all are in this part of the table.
PUBLISHED = Row("moma-published", "moma", published=True)

# Of the published comparison; the later ones are in the study of full-size patches.
_LATER = {"dist", "dkd", "zkd", "wttm", "vkd", "cosine_hint"}
METHOD_ROWS = (
    *(Row(name, name, views=_views(name)) for name in METHODS if name not in _LATER),
    PUBLISHED,
)

# The default where teacher and site have the same classes, and its variants: no
# attention, no head, relational, a bank that starts empty.
ABLATION_ROWS = (
    _moma("attention-published", attention="published"),
    _moma("attention-shared", attention="shared"),
    _moma("attention-residual", attention="shared_residual"),
    _moma("without-infonce", contrastive_weight=0.0),
    _moma("without-kl", distillation_weight=0.0),
    _moma("head-mlp", head="mlp"),
    _moma("head-mlp-ema-0.9", head="mlp", momentum=0.9),
    _moma("head-mlp-one-start", head="mlp", key_head_start="query"),
    _moma("head-linear", head="linear"),
    _moma("bank-class-masked", bank="class_masked"),
    _moma("bank-random-start", bank_start="random"),
    _moma("contrast-instance", contrast="instance"),
    _moma("contrast-instance-masked", contrast="instance", bank="class_masked"),
    _moma("temperature-0.2", temperature=0.2),
    _moma("kl-temperature-2", kl_temperature=2.0),
)

# What ships where a teacher's classes are others.
PROTOTYPES = _moma("prototypes", other_classes="prototypes")

MOVING_ROWS = (
    Row("local-published", "moma", moving=Moving("published")),
    Row("local-single-pass", "moma", moving=Moving("single_pass")),
    Row("local-adapt", "moma", moving=Moving("single_pass", 1, "adapt")),
    Row("momentum-10", "moma", moving=Moving("single_pass", 10)),
    Row("momentum-100", "moma", moving=Moving("single_pass", 100)),
    Row("frozen-online", "moma", views=0),
    # The whole method as published: its losses, and a teacher that moves.
    Row("moma-published-moving", "moma", published=True, moving=Moving("published")),
)

# No student: the teacher itself, where it knows the students' classes.
TEACHER = Row("teacher", "ce", views=0)

VIEW_ROWS = tuple(
    Row(
        f"views-{count}" if count else "online",
        "moma",
        views=count,
        labelled_share=0.0,
    )
    for count in (1, 2, 4, 8, 0)
)

_FEDERATED: tuple[Method, ...] = ("ce", "moma")
FEDERATION_ROWS = tuple(
    Row(
        f"{federation}-{method}",
        method,
        views=_views(method),
        federation=federation,
    )
    for method in _FEDERATED
    for federation in ("alone", "fedavg", "pooled")
)
