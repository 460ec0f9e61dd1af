import copy

import pytest
import torch

from moma_core.models.micro_batches import forward_in_parts
from tests.support.site.tiny import ConvEncoder, TwoStageEncoder


def _images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_without_batch_norm_parts_have_the_gradient_of_the_whole() -> None:
    torch.manual_seed(0)
    network = TwoStageEncoder()
    network.norm = torch.nn.GroupNorm(2, 8)
    other, images = copy.deepcopy(network), _images(10)

    whole = network.with_maps(images)
    parts = forward_in_parts(other, other.with_maps, images, 3)
    for features in (whole, parts):  # a loss in which every row meets every other
        (features.embedding @ features.embedding.T).exp().mean().backward()

    assert torch.allclose(whole.embedding, parts.embedding, atol=1e-6)
    assert [len(stage) for stage in parts.maps] == [len(stage) for stage in whole.maps]
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        if one.grad is None:
            assert two.grad is None
        else:
            assert two.grad is not None
            assert torch.allclose(one.grad, two.grad, atol=1e-6)


@pytest.mark.parametrize("count", [7, 9, 10])
def test_a_batch_norm_counts_each_part_once(count: int) -> None:
    torch.manual_seed(0)
    network = ConvEncoder()
    other, images = copy.deepcopy(network), _images(count)

    forward_in_parts(network, network, images, 4).logits.square().sum().backward()
    sizes = []
    for part in images.tensor_split(-(-count // 4)):
        sizes.append(len(part))
        other(part)

    assert min(sizes) >= 2
    assert max(sizes) <= 4
    assert torch.equal(network.norm.running_mean, other.norm.running_mean)
    assert torch.equal(network.norm.running_var, other.norm.running_var)
    assert int(network.norm.num_batches_tracked) == len(sizes)


def test_dropout_is_the_same_in_both_passes() -> None:
    torch.manual_seed(0)
    network, images = ConvEncoder(), _images(8)
    network.norm = torch.nn.GroupNorm(2, 8)
    drawn = list[torch.Tensor]()
    network.drop.register_forward_hook(
        lambda _module, _inputs, output: drawn.append(output.detach() != 0)
    )

    forward_in_parts(network, network, images, 4).logits.sum().backward()

    assert len(drawn) == 4
    first, again = torch.cat(drawn[:2]), torch.cat(drawn[2:])
    swapped = torch.cat([again[4:], again[:4]])  # the backward pass begins at the end
    assert torch.equal(first, swapped) or torch.equal(first, again)
