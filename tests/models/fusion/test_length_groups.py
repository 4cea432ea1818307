"""Rows grouped by length against all rows at once."""

import pytest
import torch

from truepair.models.fusion.rows import apply_by_length


def running_mean(_: torch.Tensor, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A function of a whole row that padding would change."""
    weights = mask.unsqueeze(-1).float()
    return states * (states * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)


@pytest.mark.parametrize("rows", [0, 1, 15, 33, 150])
def test_the_rows_come_back_in_order_with_zeros_behind_their_group(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    lengths = torch.randint(1, 10, (rows,), generator=generator)
    mask = (torch.arange(12) < lengths[:, None]).long()
    states = torch.rand(rows, 12, 3, generator=generator)
    result = apply_by_length(states, mask, running_mean)
    assert result.shape == (rows, 12, 3)
    tokens = mask.bool()
    assert torch.allclose(result[tokens], running_mean(lengths, states, mask)[tokens])
    assert (result[:, 10:] == 0).all()


def test_one_state_a_row_is_not_padded_and_knows_its_row() -> None:
    mask = (torch.arange(7) < torch.randint(1, 8, (40, 1), generator=torch.Generator().manual_seed(0))).long()
    numbers = apply_by_length(
        torch.zeros(40, 7, 1), mask, lambda rows, states, _: rows[:, None, None].float() + states[:, :1], cls_only=True
    )
    assert numbers.flatten().tolist() == list(range(40))


def test_gradients_reach_every_token() -> None:
    mask = (torch.arange(5) < torch.tensor([[5], [1], [3]])).long()
    states = torch.rand(3, 5, 2, requires_grad=True)
    apply_by_length(states, mask, lambda rows, part, m: part * m.unsqueeze(-1)).sum().backward()
    assert states.grad is not None
    assert torch.equal(states.grad, mask.unsqueeze(-1).expand(3, 5, 2).float())
