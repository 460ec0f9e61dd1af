"""The method's hyper-parameters: the defaults are what won on real tissue.

`DistillationSettings.published` has the paper's; README.md shows the table.
"""

from typing import Literal, Self

from pydantic import Field

from moma_core.config import Section

AttentionKind = Literal["published", "none", "shared", "shared_residual"]
HeadKind = Literal["mlp", "linear", "none"]


class DistillationSettings(Section):
    """MoMA's own numbers (arXiv 2308.16561, section 4.2)."""

    scenario: Literal["auto", "same", "relevant", "irrelevant"] = Field(
        default="auto", description="auto: from organ, task and class names."
    )
    head: HeadKind = Field(
        default="none", description="mlp: published; none: embeddings as they are."
    )
    key_head_start: Literal["own", "query"] = Field(
        default="own", description="own: published; query: a copy of the query head."
    )
    feature_length: int = Field(
        default=512, ge=4, le=8192, description="Of a key; head none: the embedding's."
    )
    attention: AttentionKind = Field(
        default="none", description="Over the batch, before the loss."
    )
    attention_heads: int = Field(default=4, ge=1, le=64)
    bank: Literal["instance", "class_masked"] = Field(
        default="instance",
        description="class_masked: keys of a query's own class are no negatives.",
    )
    bank_size: int = Field(default=16384, ge=2, le=2**20, description="Keys held, K.")
    bank_start: Literal["random", "empty"] = Field(
        default="empty", description="random: published; empty: keys count once set."
    )
    contrast: Literal["instance", "relational"] = Field(
        default="relational",
        description="instance: InfoNCE, published; relational: the teacher's "
        "similarities to the bank are the target.",
    )
    temperature: float = Field(
        default=0.07, gt=0, le=10, description="Of the contrast."
    )
    kl_temperature: float = Field(default=4.0, gt=0, le=100)
    momentum: float = Field(default=0.999, ge=0, le=1, description="EMA decay a step.")
    other_classes: Literal["ignored", "side_head"] = Field(
        default="ignored",
        description="A teacher's logits where the class sets differ. ignored: "
        "published; side_head: learned by a layer beside the classifier.",
    )
    classification_weight: float = Field(default=1.0, ge=0)
    contrastive_weight: float = Field(default=3.0, ge=0, description="Published: 1.")
    distillation_weight: float = Field(
        default=3.0, ge=0, description="Of the KL. Published: 1."
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
