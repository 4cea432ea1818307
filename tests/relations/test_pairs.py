import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.relations.pairs import PairSet


@st.composite
def pair_sets(draw: st.DrawFn) -> PairSet:
    """Any cells, repeated ones too."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    cells = draw(st.lists(st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1)), max_size=15))
    index = torch.tensor(cells, dtype=torch.long).reshape(-1, 2)
    return PairSet(index[:, 0], index[:, 1], torch.arange(1.0, len(cells) + 1), (rows, columns))


@settings(max_examples=100)
@given(pair_sets())
def test_distinct_keeps_the_first_of_each(pairs: PairSet) -> None:
    first: dict[tuple[int, int], float] = {}
    for row, column, value in zip(pairs.rows.tolist(), pairs.columns.tolist(), pairs.values.tolist(), strict=True):
        first.setdefault((row, column), value)
    kept = pairs.distinct()
    found = dict(zip(zip(kept.rows.tolist(), kept.columns.tolist(), strict=True), kept.values.tolist(), strict=True))
    assert found == first and len(kept) == len(first)
    assert kept.linear.tolist() == sorted(kept.linear.tolist())
    assert torch.equal(kept.T.dense(), kept.dense().T)
    assert torch.equal(PairSet.from_dense(kept.dense()).dense(), kept.dense())
    assert torch.equal(kept.mask(), kept.dense() != 0)


@settings(max_examples=100)
@given(pair_sets())
def test_rows_of_shares_sum_to_one(pairs: PairSet) -> None:
    sums = pairs.normalised().row_sums()
    filled = torch.bincount(pairs.rows, minlength=pairs.shape[0]) > 0
    torch.testing.assert_close(sums, filled.float())


def test_union_prefers_the_earlier_set() -> None:
    own = PairSet.diagonal(2, 2)
    other = PairSet(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([5.0, 6.0]), (2, 2))
    assert PairSet.union(own, other).dense().tolist() == [[1, 6], [0, 1]]
    assert PairSet.union(other, own).dense().tolist() == [[5, 6], [0, 1]]


def test_contains() -> None:
    own = PairSet.diagonal(3, 3)
    others = PairSet(torch.tensor([0, 1, 2]), torch.tensor([1, 1, 0]), torch.ones(3), (3, 3))
    assert own.contains(others).tolist() == [False, True, False]


def test_diagonal_of_a_rank() -> None:
    assert PairSet.diagonal(2, 5, offset=2).columns.tolist() == [2, 3]
    with pytest.raises(ValueError, match="offset"):
        PairSet.diagonal(2, 5, offset=4)


def test_a_set_keeps_its_sides_on_a_device() -> None:
    rows = torch.tensor([0, 1])
    by_row = torch.tensor([True, False])
    pairs = PairSet(rows, 1 - rows, torch.ones(2), (2, 2), by_row, ~by_row)
    moved = pairs.to("meta")
    assert moved.by_row is not None and moved.by_row.is_meta and moved.values.is_meta and moved.shape == (2, 2)
    assert pairs.to("cpu") is pairs and pairs.on_host() is pairs


def test_unequal_lengths_say_so() -> None:
    with pytest.raises(ValueError, match="one length"):
        PairSet(torch.zeros(2).long(), torch.zeros(3).long(), torch.zeros(2), (4, 4))
