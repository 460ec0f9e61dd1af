"""The method's hyper-parameters, with the paper's defaults."""

from typing import Literal

from pydantic import Field

from moma_core.config import Section


class DistillationSettings(Section):
    """MoMA's own numbers (arXiv 2308.16561, section 4.2)."""

    scenario: Literal["auto", "same", "relevant", "irrelevant"] = Field(
        default="auto", description="auto: from organ, task and class names."
    )
    feature_length: int = Field(default=512, ge=4, le=8192, description="Of a key.")
    attention_heads: int = Field(default=4, ge=1, le=64)
    bank_size: int = Field(default=16384, ge=2, le=2**20, description="Keys held, K.")
    temperature: float = Field(default=0.15, gt=0, le=10, description="Of InfoNCE.")
    kl_temperature: float = Field(default=4.0, gt=0, le=100)
    momentum: float = Field(default=0.999, ge=0, le=1, description="EMA decay a step.")
    classification_weight: float = Field(default=1.0, ge=0)
    contrastive_weight: float = Field(default=1.0, ge=0)
    distillation_weight: float = Field(default=1.0, ge=0, description="Of the KL.")
