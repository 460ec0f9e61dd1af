"""The method's hyper-parameters: the defaults are what won on real tissue.

`DistillationSettings.published` has the paper's; docs/results.md compares them.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from moma_core.config import Section

AttentionKind = Literal["published", "none", "shared", "shared_residual", "gated"]
ScaleKind = Literal["scalar", "channels"]
HeadKind = Literal["mlp", "linear", "none"]
LogitLoss = Literal["kl", "dist", "decoupled", "standardised", "wttm"]
OtherClasses = Literal["ignored", "side_head", "prototypes"]
ProjectorKind = Literal["linear", "orthogonal"]


class DistillationSettings(Section):
    """MoMA's own numbers (arXiv 2308.16561, section 4.2)."""

    scenario: Literal["auto", "same", "relevant", "irrelevant"] = Field(
        default="auto",
        description="Which losses apply; auto: from organ, task and class names.",
    )
    fallback: Literal["none", "auto"] = Field(
        default="auto",
        description="auto: where each teacher is irrelevant, moma learns from the "
        "labels alone, as ce does, and no teacher is asked about a patch for it. none: "
        "published; an irrelevant teacher is asked all the same.",
    )
    head: HeadKind = Field(
        default="none",
        description="Projection head; mlp: published; none: embeddings as they are.",
    )
    key_head_start: Literal["own", "query"] = Field(
        default="own",
        description="Start of the key head; own: published; query: the query head's.",
    )
    feature_length: int = Field(
        default=512,
        ge=4,
        le=8192,
        description="Length of a key, D; head none: the embedding's.",
    )
    attention: AttentionKind = Field(
        default="none",
        description="Attention over the batch, before the loss. gated: beside its "
        "input, with a weight that starts at 0 and is learned.",
    )
    attention_heads: int = Field(
        default=4, ge=1, le=64, description="Heads of that attention."
    )
    attention_scale: ScaleKind = Field(
        default="scalar",
        description="That weight: one number, or one a channel (LayerScale).",
    )
    attention_reach: Literal["batch", "bank"] = Field(
        default="batch",
        description="What a row attends to; bank: also to the keys of the memory bank "
        "that are nearest to the batch. Not with attention none or published.",
    )
    attention_neighbours: int = Field(
        default=64, ge=1, le=4096, description="So many of these keys at most."
    )
    bank: Literal["instance", "class_masked", "teacher_masked"] = Field(
        default="instance",
        description="Kind of memory bank; class_masked: keys of a query's own class "
        "are no negatives; teacher_masked: keys to which the teacher gives the class "
        "that it gives to the query, whatever its classes are.",
    )
    bank_size: int = Field(
        default=16384, ge=2, le=2**20, description="Keys in the memory bank, K."
    )
    bank_start: Literal["random", "empty"] = Field(
        default="empty",
        description="Start of the memory bank; random: published; empty: keys count "
        "once they are set.",
    )
    contrast: Literal["instance", "relational"] = Field(
        default="relational",
        description="instance: InfoNCE, published; relational: the teacher's "
        "similarities to the bank are the target.",
    )
    relation_heads: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Slices of a key that the relational contrast compares each for "
        "itself; 1: the whole key.",
    )
    temperature: float = Field(
        default=0.07, gt=0, le=10, description="Temperature of the contrast."
    )
    logit_loss: LogitLoss = Field(
        default="kl",
        description="Loss to the teacher's logits; the others stand in its place, "
        "with the same weight and temperature.",
    )
    kl_temperature: float = Field(
        default=4.0, gt=0, le=100, description="Temperature of the KL."
    )
    hint_weight: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Weight, within the contrast, of a hint beside it: cosine and "
        "smooth-L1 to the teacher's standardised embedding; 0: none.",
    )
    hint_projector: ProjectorKind = Field(
        default="orthogonal", description="What brings the student's embedding there."
    )
    momentum: float = Field(
        default=0.999, ge=0, le=1, description="EMA decay of one step."
    )
    other_classes: OtherClasses = Field(
        default="prototypes",
        description="In the KL's place where the class sets differ, or the teacher "
        "discloses no logits. ignored: nothing, published; side_head: a layer beside "
        "the classifier learns the teacher's logits; prototypes: the classifier learns "
        "which class's centre in the memory bank the teacher's key is nearest to. The "
        "site's labels make the centres. Like ignored with bank teacher_masked, "
        "bank_start random or attention published, and for an irrelevant teacher.",
    )
    prototype_weight: float = Field(
        default=3.0,
        ge=0,
        le=1000,
        description="Weight of prototypes, times distillation_weight.",
    )
    classification_weight: float = Field(
        default=1.0, ge=0, description="Weight of the cross-entropy."
    )
    contrastive_weight: float = Field(
        default=3.0, ge=0, description="Weight of the contrast. Published: 1."
    )
    distillation_weight: float = Field(
        default=3.0, ge=0, description="Weight of the KL. Published: 1."
    )

    added_keys: ClassVar[Mapping[str, object]] = {
        "fallback": "none",
        "attention_scale": "scalar",
        "attention_reach": "batch",
        "attention_neighbours": 64,
        "relation_heads": 1,
        "logit_loss": "kl",
        "prototype_weight": 3.0,
        "hint_weight": 0.0,
        "hint_projector": "orthogonal",
    }

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.attention_reach == "bank" and self.attention in ("none", "published"):
            raise ValueError(
                f"attention_reach bank needs an attention that learns for queries and "
                f"keys: write attention: gated instead of {self.attention}"
            )
        if self.relation_heads > 1 and self.contrast != "relational":
            raise ValueError(
                f"relation_heads {self.relation_heads} needs contrast: relational"
            )
        return self

    @property
    def has_prototypes(self) -> bool:
        """Whether a teacher of other classes is learned from by class centres.

        The bank must hold the site's classes, and keys of single patches alone.
        """
        return (
            self.other_classes == "prototypes"
            and self.bank != "teacher_masked"
            and self.bank_start == "empty"
            and self.attention != "published"
        )

    @classmethod
    def published(cls) -> Self:
        """Returns the method as the paper's code computes it."""
        return cls(
            fallback="none",
            head="mlp",
            key_head_start="own",
            attention="published",
            bank="instance",
            bank_start="random",
            contrast="instance",
            temperature=0.15,
            other_classes="ignored",
            contrastive_weight=1.0,
            distillation_weight=1.0,
        )
