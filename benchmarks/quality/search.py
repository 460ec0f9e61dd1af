"""What the default was looked for in: variants of MoMA, and who they must beat."""

from dataclasses import replace
from typing import Any

from benchmarks.quality.rows import METHOD_ROWS, Row

# Embeddings as they are, and the teacher's similarities to the bank as the target.
_PLAIN = {
    "attention": "none",
    "head": "none",
    "contrast": "relational",
    "bank_start": "empty",
    "temperature": 0.07,
    "other_classes": "side_head",
}


def _variant(name: str, **changes: Any) -> Row:  # noqa: ANN401
    return Row(f"search-{name}", "moma", {**_PLAIN, **changes}, published=True)


SEARCH_ROWS = (
    *(row for row in METHOD_ROWS if row.name in ("ce", "kd", "pkt", "moma-published")),
    _variant("relational"),
    _variant("relational-x3", contrastive_weight=3.0),
    _variant("relational-t0.2", temperature=0.2),
    _variant("relational-t0.2-x5", temperature=0.2, contrastive_weight=5.0),
    _variant("relational-residual", attention="shared_residual"),
    _variant("relational-mlp", head="mlp", temperature=0.15),
    _variant("instance", contrast="instance"),
    _variant("instance-masked", contrast="instance", bank="class_masked"),
    _variant("relational-kl-t2", kl_temperature=2.0),
    _variant("relational-without-side-head", other_classes="ignored"),
)

# A second look, over more seeds, at what the first left open.
SECOND_ROWS = (
    *(row for row in METHOD_ROWS if row.name in ("ce", "kd", "pkt")),
    *(
        row
        for row in SEARCH_ROWS
        if row.name.removeprefix("search-")
        in (
            "relational",
            "relational-x3",
            "relational-residual",
            "relational-without-side-head",
            "instance",
        )
    ),
    _variant("relational-x0.3", contrastive_weight=0.3),
    _variant("bare-x0.3", other_classes="ignored", contrastive_weight=0.3),
    _variant("bare-instance", other_classes="ignored", contrast="instance"),
    replace(_variant("bare-labels-0.75", other_classes="ignored"), labelled_share=0.75),
)


def _beside(name: str, **changes: Any) -> Row:  # noqa: ANN401
    """Returns the shipped default with a change."""
    return Row(f"beside-{name}", "moma", changes)


# What may stand beside the shipped default, each held against it. `again` is that
# default itself but for its arithmetic: how far the two are apart is noise.
ATTENTION_ROWS = (
    *(row for row in METHOD_ROWS if row.name in ("moma", "ce", "kd", "hint")),
    _beside("again", temperature=0.0700001),
    _beside("gated", attention="gated"),
    _beside("relation-16", relation_heads=16),
    _beside("hint", hint_weight=0.3),
    _beside("prototypes", other_classes="prototypes"),
    _beside("prototypes-1", other_classes="prototypes", prototype_weight=1.0),
    _beside("prototypes-10", other_classes="prototypes", prototype_weight=10.0),
)
# Of what `training` ships switched off, what any method may switch on; at values that
# fit a hundred steps.
TRAINING_ROWS = (
    *(row for row in METHOD_ROWS if row.name == "moma"),
    Row("beside-ema", "moma", training={"ema_decay": 0.95}),
    Row("beside-smoothing", "moma", training={"label_smoothing": 0.1}),
    Row("beside-warm-up", "moma", training={"warmup_share": 0.1}),
    Row("beside-mixed-0.2", "moma", mixed_answers=0.2),
    Row("beside-mixed-1", "moma", mixed_answers=1.0),
)
# Taken up where time is left.
LATE_ROWS = (
    _beside("gated-bank", attention="gated", attention_reach="bank"),
    _beside("gated-channels", attention="gated", attention_scale="channels"),
    _beside("teacher-masked", bank="teacher_masked"),
    _beside("dist", logit_loss="dist"),
    _beside("decoupled", logit_loss="decoupled"),
    _beside("standardised", logit_loss="standardised"),
    _beside("wttm", logit_loss="wttm"),
)
