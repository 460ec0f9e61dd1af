"""Weights and parameters of the methods that the paper compares with."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from moma_core.config import Section


class BaselineSettings(Section):
    """Each method's own numbers, as its literature has them.

    "CRD's comparison" is the table of Tian et al. (https://arxiv.org/abs/1910.10699),
    whose weights later comparisons took over.
    """

    weight_scale: float = Field(
        default=1.0, ge=0, description="Times a method's weight: for tuning trials."
    )

    kd_weight: float = Field(default=1.0, ge=0, description="Hinton et al.")
    kd_temperature: float = Field(
        default=4.0, gt=0, le=100, description="Hinton et al.; CRD's comparison."
    )
    hint_weight: float = Field(default=100.0, ge=0, description="CRD's comparison.")
    at_weight: float = Field(default=1000.0, ge=0, description="CRD's comparison.")
    sp_weight: float = Field(default=3000.0, ge=0, description="Tung and Mori.")
    cc_weight: float = Field(default=0.02, ge=0, description="CRD's comparison.")
    vid_weight: float = Field(default=1.0, ge=0, description="CRD's comparison.")
    vid_variance: float = Field(
        default=5.0, gt=0, description="Where it starts: CRD's comparison."
    )
    rkd_weight: float = Field(default=1.0, ge=0, description="CRD's comparison.")
    rkd_distance_weight: float = Field(default=25.0, ge=0, description="Park et al.")
    rkd_angle_weight: float = Field(default=50.0, ge=0, description="Park et al.")
    pkt_weight: float = Field(default=30000.0, ge=0, description="CRD's comparison.")
    crd_weight: float = Field(default=0.8, ge=0, description="Tian et al.")
    crd_feature_length: int = Field(
        default=128, ge=2, le=8192, description="Tian et al."
    )
    crd_negatives: int = Field(
        default=16384, ge=1, le=2**20, description="A positive; Tian et al."
    )
    crd_temperature: float = Field(default=0.07, gt=0, le=10, description="Tian et al.")
    crd_momentum: float = Field(
        default=0.5, ge=0, le=1, description="Of its memories; Tian et al."
    )
    semckd_weight: float = Field(default=400.0, ge=0, description="Chen et al., 2021.")
    semckd_stages: int = Field(
        default=3, ge=1, le=8, description="The last ones of each side; ours."
    )
    simkd_weight: float = Field(default=1.0, ge=0, description="Chen et al., 2022.")
    srrl_weight: float = Field(
        default=1.0, ge=0, description="Yang et al.: of both its terms."
    )
    dist_weight: float = Field(default=2.0, ge=0, description="Huang et al., 2022.")
    dist_temperature: float = Field(
        default=1.0, gt=0, le=100, description="Huang et al., 2022, on ImageNet."
    )
    dkd_weight: float = Field(default=1.0, ge=0, description="Zhao et al., 2022.")
    dkd_temperature: float = Field(
        default=4.0, gt=0, le=100, description="Zhao et al., 2022."
    )
    zkd_weight: float = Field(default=9.0, ge=0, description="Sun et al., 2024.")
    zkd_temperature: float = Field(
        default=2.0, gt=0, le=100, description="The base temperature; Sun et al., 2024."
    )
    wttm_weight: float = Field(default=1.0, ge=0, description="Zheng and Yang; ours.")
    wttm_temperature: float = Field(
        default=4.0, ge=1, le=100, description="1 over their exponent; ours."
    )
    vkd_weight: float = Field(
        default=1.0, ge=0, description="Miles et al., 2024, with a cosine; ours."
    )
    cosine_hint_weight: float = Field(
        default=1.0, ge=0, description="As vkd, with a linear projector; ours."
    )

    added_keys: ClassVar[Mapping[str, object]] = {
        "dist_weight": 2.0,
        "dist_temperature": 1.0,
        "dkd_weight": 1.0,
        "dkd_temperature": 4.0,
        "zkd_weight": 9.0,
        "zkd_temperature": 2.0,
        "wttm_weight": 1.0,
        "wttm_temperature": 4.0,
        "vkd_weight": 1.0,
        "cosine_hint_weight": 1.0,
    }
