import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.objectives.sums import RunningLogSumExp, RunningSum, row_logsumexp, safe_logsumexp
from truepair.relations.pairs import PairSet


def matrix(rows: int, columns: int, seed: int, scale: float) -> torch.Tensor:
    """Random values, a third of them -inf, and whole rows and columns of -inf now and then."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scale
    values[torch.rand(rows, columns, generator=generator) < 0.3] = -torch.inf
    values[torch.rand(rows, generator=generator) < 0.2] = -torch.inf
    values[:, torch.rand(columns, generator=generator) < 0.2] = -torch.inf
    return values


@settings(max_examples=60)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**20), st.sampled_from([1.0, 1000.0]), st.integers(0, 1))
def test_all_ways_equal_torch(rows: int, columns: int, seed: int, scale: float, dim: int) -> None:
    values = matrix(rows, columns, seed, scale)
    wanted = torch.logsumexp(values, dim=dim)
    torch.testing.assert_close(safe_logsumexp(values, dim), wanted)
    running = RunningLogSumExp(len(wanted), dim, values)
    for top in range(0, rows, 3):
        for left in range(0, columns, 2):
            tile = values[top : top + 3, left : left + 2]
            where = slice(top, top + 3) if dim == 1 else slice(left, left + 2)
            running.add(tile, where, torch.empty_like(tile))
    torch.testing.assert_close(running.result(), wanted)
    if scale == 1.0:
        plain = RunningSum(len(wanted), dim, values)
        plain.add(values.exp(), slice(None), values)
        torch.testing.assert_close(plain.result(), wanted)
    finite = values.isfinite()
    pairs = PairSet.from_dense(values, where=finite)
    torch.testing.assert_close(row_logsumexp(values[finite], pairs), torch.logsumexp(values, dim=1))


@pytest.mark.parametrize("dim", [0, 1])
def test_gradient_is_zero_where_there_is_nothing(dim: int) -> None:
    values = torch.tensor([[1.0, -torch.inf], [-torch.inf, -torch.inf]], requires_grad=True)
    safe_logsumexp(values, dim).nan_to_num(neginf=0.0).sum().backward()
    assert values.grad.tolist() == [[1, 0], [0, 0]]
