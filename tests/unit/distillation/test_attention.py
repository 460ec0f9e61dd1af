import pytest
import torch

from moma_core.distillation.attention import BatchAttention


def test_attention_equals_torchs_own_multi_head_attention() -> None:
    ours = BatchAttention(feature_length=12, heads=3)
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    rows = torch.randn(7, 12)

    expected, _ = theirs(rows[None], rows[None], rows[None])

    torch.testing.assert_close(ours(rows), expected[0])


def test_features_that_do_not_split_into_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="10 features do not split in 4 heads"):
        BatchAttention(feature_length=10, heads=4)
