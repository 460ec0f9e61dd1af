"""The method's hyper-parameters: the defaults are what won on real tissue.

`DistillationSettings.published` has the paper's; docs/results.md compares them.
"""

from typing import Literal, Self

from pydantic import Field

from moma_core.config import Section

AttentionKind = Literal["published", "none", "shared", "shared_residual"]
HeadKind = Literal["mlp", "linear", "none"]


class DistillationSettings(Section):
    """MoMA's own numbers (arXiv 2308.16561, section 4.2)."""

    scenario: Literal["auto", "same", "relevant", "irrelevant"] = Field(
        default="auto",
        description="Which losses apply; auto: from organ, task and class names.",
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
        default="none", description="Attention over the batch, before the loss."
    )
    attention_heads: int = Field(
        default=4, ge=1, le=64, description="Heads of that attention."
    )
    bank: Literal["instance", "class_masked"] = Field(
        default="instance",
        description="Kind of memory bank; class_masked: keys of a query's own class "
        "are no negatives.",
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
    temperature: float = Field(
        default=0.07, gt=0, le=10, description="Temperature of the contrast."
    )
    kl_temperature: float = Field(
        default=4.0, gt=0, le=100, description="Temperature of the KL."
    )
    momentum: float = Field(
        default=0.999, ge=0, le=1, description="EMA decay of one step."
    )
    other_classes: Literal["ignored", "side_head"] = Field(
        default="ignored",
        description="A teacher's logits where the class sets differ. ignored: "
        "published; side_head: learned by a layer beside the classifier.",
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

    @classmethod
    def published(cls) -> Self:
        """Returns the method as the paper's code computes it."""
        return cls(
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
