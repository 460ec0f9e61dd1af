import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moma_core.distillation.memory_bank import MemoryBank


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_the_bank_holds_the_newest_keys_in_ring_order(batch_sizes: list[int]) -> None:
    bank = MemoryBank(size=5, feature_length=1)
    bank.keys.fill_(-1)
    stream = torch.arange(sum(batch_sizes), dtype=torch.float).unsqueeze(1)

    for batch in stream.split(batch_sizes):
        bank.enqueue(batch)

    expected = torch.full((5, 1), -1.0)
    for number, key in enumerate(stream):
        expected[number % 5] = key
    assert torch.equal(bank.keys, expected)
    assert bank.cursor == len(stream) % 5


def test_a_batch_larger_than_the_bank_is_refused() -> None:
    with pytest.raises(ValueError, match="6 keys do not fit a bank of 5"):
        MemoryBank(size=5, feature_length=1).enqueue(torch.zeros(6, 1))


def test_an_empty_bank_is_refused() -> None:
    with pytest.raises(ValueError, match="bank of 0 keys"):
        MemoryBank(size=0, feature_length=1)


def test_a_saved_bank_resumes_where_it_stopped() -> None:
    bank, resumed = MemoryBank(5, 2), MemoryBank(5, 2)
    bank.enqueue(torch.ones(3, 2))

    resumed.load_state_dict(bank.state_dict())

    assert torch.equal(resumed.keys, bank.keys)
    assert resumed.cursor == 3


def test_keys_are_written_in_place() -> None:
    bank = MemoryBank(size=5, feature_length=2)
    where = bank.keys.data_ptr()

    bank.enqueue(torch.ones(3, 2))

    assert bank.keys.data_ptr() == where
